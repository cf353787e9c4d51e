"""The commands' bodies. Each opens a run folder and calls its command or study."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands import COMMANDS, Command
from .failure import Stopped, explain

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ..run import Run
    from ..tracking import Tracker

log = logging.getLogger(__name__)


def task_of(command: Command) -> Callable[[DictConfig], None]:
    """Return a command's function of a composed config; Hydra names the job after it."""

    def task(cfg: DictConfig) -> None:
        _run(command, cfg)

    task.__name__ = task.__qualname__ = command.module
    task.__doc__ = command.help
    return task


TASKS = {command.name: task_of(command) for command in COMMANDS}
globals().update({task.__name__: task for task in TASKS.values()})  # launchers pickle a function by its name in the module


def _run(command: Command, cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        _run_command(command, cfg)
    except Exception as error:
        line = explain(error)
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # the other jobs go on, and the sweep ends by naming this one
            log.error("this job failed: %s", line or f"{type(error).__name__}: {error}", exc_info=line is None)
            _record_failure(command, cfg, line or error)
            return
        if line is None:
            raise
        raise Stopped(line) from error


def _record_failure(command: Command, cfg: DictConfig, error: Exception) -> None:
    """Leave a manifest of a job that failed before it had a run folder."""
    from hydra.core.hydra_config import HydraConfig

    if not (Path(HydraConfig.get().runtime.output_dir) / "manifest.json").is_file():
        with suppress(type(error)), _open_run(command, cfg):
            raise error


def _open_run(command: Command, cfg: DictConfig, tracker: Tracker | None = None) -> Run:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from ..run import Run

    hydra = HydraConfig.get()
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    own = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    typed: dict[str, Any] = {"overrides": list(hydra.overrides.task), "config_dir": next(iter(own), None)}
    return Run(Path(hydra.runtime.output_dir), command.name, plain, tracker=tracker, **typed)


def _run_command(command: Command, cfg: DictConfig) -> None:
    from . import schema

    schema.register()  # a launcher's worker starts from nothing
    config = schema.from_hydra(cfg)
    import torch

    from ..commands import study
    from ..pipeline.pipeline import Pipeline
    from ..store import Store
    from ..tracking import make_tracker

    if config.threads is not None:
        import numba

        torch.set_num_threads(config.threads)
        numba.set_num_threads(min(config.threads, numba.get_num_threads()))
    store = Store(Path(config.outputs) / ".store", config.reuse)
    pipeline = Pipeline(config, store)
    tracker = make_tracker(config.tracker.name, config.tracker.project, config.tracker.uri)
    with _open_run(command, cfg, tracker) as record:
        try:
            if command.study is not None:
                study.main(command.study, pipeline, record)
            else:
                importlib.import_module(f"steerpipe.commands.{command.module}").main(pipeline, record)
        finally:
            record.artefacts(store.used)
            record.manifest.update(pipeline.notes)
    folder = record.path
    if command.name == "run":
        from ..report.page import run_page, write_page
        from .report import captions

        write_page(folder / "report.html", run_page(folder, captions()))
        log.info("report: %s", folder / "report.html")
    log.info("done in %.1f s: %s", record.manifest["seconds"], folder)
    print(folder, file=sys.stdout, flush=True)
