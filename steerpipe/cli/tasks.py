"""The commands' bodies: module-level, since launchers pickle them. Each opens a run folder and calls its stage."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .failure import Stopped, explain

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def extract(cfg: DictConfig) -> None:
    """Run the model over a dataset and store its residual stream, cell embeddings and predicted expression."""
    _run("extract", cfg)


def check_approximation(cfg: DictConfig) -> None:
    """Measure what running cells on their expressed genes alone (model.tokens=expressed) does to streams and predictions."""
    _run("check_approximation", cfg)


def train_sae(cfg: DictConfig) -> None:
    """Train a TopK sparse autoencoder on the stored activations and score it on held-out cells."""
    _run("train_sae", cfg)


def fit(cfg: DictConfig) -> None:
    """Fit a sparse steering vector: the exact latent lasso, or the expression objective through the model."""
    _run("fit", cfg)


def evaluate(cfg: DictConfig) -> None:
    """Score the fits on held-out cells, in both geometries, beside their controls."""
    _run("evaluate", cfg)


def plot(cfg: DictConfig) -> None:
    """Draw the figures of an evaluation, each with the CSV behind it."""
    _run("plot", cfg)


def run(cfg: DictConfig) -> None:
    """Run it all: extract, train the SAE, fit, evaluate, plot. What exists is reused."""
    _run("run", cfg)


def pretrain(cfg: DictConfig) -> None:
    """Train the embedded model `mini` from PBMC8K and score it on other data. About two hours on 2 cores."""
    _run("pretrain", cfg)


TASKS = (run, extract, train_sae, fit, evaluate, plot, check_approximation, pretrain)


def _run(stage: str, cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        _run_stage(stage, cfg)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        # a sweep goes on with its other jobs, and Hydra names the one that failed
        raise (line if HydraConfig.get().mode is RunMode.MULTIRUN else Stopped(line)) from error


def _run_stage(stage: str, cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from . import schema

    schema.register()  # a launcher's worker starts from nothing
    config = schema.from_hydra(cfg)
    import torch

    from ..run import Run
    from ..stages.common import Context
    from ..store import Store
    from ..tracking import make_tracker

    if config.threads is not None:
        import numba

        torch.set_num_threads(config.threads)
        numba.set_num_threads(min(config.threads, numba.get_num_threads()))
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    store = Store(Path(config.outputs) / ".store", config.reuse)
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    own = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    tracker = make_tracker(config.tracker.name, config.tracker.project, config.tracker.uri)
    typed: dict[str, Any] = {"overrides": list(hydra.overrides.task), "config_dir": next(iter(own), None)}
    with Run(folder, stage.replace("_", "-"), plain, tracker=tracker, **typed) as record:
        try:
            importlib.import_module(f"steerpipe.stages.{stage}").main(Context(config, store, record))
        finally:
            record.artefacts(store.used)
    if stage == "run":
        from ..report.page import run_page, write_page

        write_page(folder / "report.html", run_page(folder))
        log.info("report: %s", folder / "report.html")
    log.info("done in %.1f s: %s", record.manifest["seconds"], folder)
    print(folder, file=sys.stdout, flush=True)
