"""The commands' bodies: module-level, since launchers pickle them. Each opens a run folder and calls its stage."""

from __future__ import annotations

import importlib
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .failure import Stopped, explain

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ..run import Run
    from ..tracking import Tracker

log = logging.getLogger(__name__)


def extract(cfg: DictConfig) -> None:
    """Run the model over a dataset and store its residual stream, cell embeddings and predicted expression."""
    _run("extract", cfg)


def check_approximation(cfg: DictConfig) -> None:
    """Measure what running cells on their expressed genes alone (model.tokens=expressed) does to streams and predictions."""
    _run("check_approximation", cfg)


def train_sae(cfg: DictConfig) -> None:
    """Train a sparse autoencoder on the stored activations and score it, beside its baselines, on held-out cells."""
    _run("train_sae", cfg)


def stability(cfg: DictConfig) -> None:
    """Match the features of trainings that differ in their seed alone, beside controls."""
    _run("stability", cfg)


def annotate(cfg: DictConfig) -> None:
    """Say what the SAE's features mean: gene sets, GO terms, cell types, modules; beside neurons, PCA, ICA, a random SAE."""
    _run("annotate", cfg)


def feature(cfg: DictConfig) -> None:
    """Show one feature as a card: genes, terms, cell types, and what steering it alone does, beside nulls."""
    _run("feature", cfg)


def features(cfg: DictConfig) -> None:
    """List the features by their annotation, or search labels, terms, genes and cell types."""
    _run("features", cfg)


def browse(cfg: DictConfig) -> None:
    """Write features.html: every feature of the dictionary in one page, searched, sorted and opened without a network."""
    _run("browse", cfg)


def fit(cfg: DictConfig) -> None:
    """Fit a sparse steering vector: the exact latent lasso, or the expression objective through the model."""
    _run("fit", cfg)


def evaluate(cfg: DictConfig) -> None:
    """Score the fits on held-out cells, in both geometries, beside their controls."""
    _run("evaluate", cfg)


def plot(cfg: DictConfig) -> None:
    """Draw the figures of an evaluation, each with the CSV behind it."""
    _run("plot", cfg)


def diagnose(cfg: DictConfig) -> None:
    """Ask of each recruited feature whether it is real: gene cap, noise floors, lambda path, half-sample refits, widths."""
    _run("diagnose", cfg)


def transfer(cfg: DictConfig) -> None:
    """Fit on some cell types, score on the held-out others: does the recipe transfer?"""
    _run("transfer", cfg)


def pareto(cfg: DictConfig) -> None:
    """Trade latent distance for expression: sweep the mixed objective's weight and draw the front."""
    _run("pareto", cfg)


def circuits(cfg: DictConfig) -> None:
    """Switch features off at one layer, and see what it does at later layers and at the head: edges beside their nulls."""
    _run("circuits", cfg)


def run(cfg: DictConfig) -> None:
    """Run it all: extract, train the SAE, fit, evaluate, plot. What exists is reused."""
    _run("run", cfg)


def pretrain(cfg: DictConfig) -> None:
    """Train the embedded model `mini` from PBMC8K and score it on other data. About two hours on 2 cores."""
    _run("pretrain", cfg)


TASKS = (
    run, extract, train_sae, stability, annotate, browse, fit, evaluate, plot, diagnose, transfer, pareto, circuits,
    check_approximation, pretrain,
)  # fmt: skip

COMMANDS = ("circuits",)
"""Those of them that live in steerpipe.commands."""


def _run(stage: str, cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        _run_stage(stage, cfg)
    except Exception as error:
        line = explain(error)
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # the other jobs go on, and the sweep ends by naming this one
            log.error("this job failed: %s", line or f"{type(error).__name__}: {error}", exc_info=line is None)
            _record_failure(stage, cfg, line or error)
            return
        if line is None:
            raise
        raise Stopped(line) from error


def _record_failure(stage: str, cfg: DictConfig, error: Exception) -> None:
    """Leave a manifest of a job that failed before it had a run folder."""
    from hydra.core.hydra_config import HydraConfig

    if not (Path(HydraConfig.get().runtime.output_dir) / "manifest.json").is_file():
        with suppress(type(error)), _open_run(stage, cfg):
            raise error


def _open_run(stage: str, cfg: DictConfig, tracker: Tracker | None = None) -> Run:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from ..run import Run

    hydra = HydraConfig.get()
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    own = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    typed: dict[str, Any] = {"overrides": list(hydra.overrides.task), "config_dir": next(iter(own), None)}
    return Run(Path(hydra.runtime.output_dir), stage.replace("_", "-"), plain, tracker=tracker, **typed)


def _run_stage(stage: str, cfg: DictConfig) -> None:
    from . import schema

    schema.register()  # a launcher's worker starts from nothing
    config = schema.from_hydra(cfg)
    import torch

    from ..stages.common import Context
    from ..store import Store
    from ..tracking import make_tracker

    if config.threads is not None:
        import numba

        torch.set_num_threads(config.threads)
        numba.set_num_threads(min(config.threads, numba.get_num_threads()))
    store = Store(Path(config.outputs) / ".store", config.reuse)
    tracker = make_tracker(config.tracker.name, config.tracker.project, config.tracker.uri)
    with _open_run(stage, cfg, tracker) as record:
        try:
            package = "commands" if stage in COMMANDS else "stages"
            importlib.import_module(f"steerpipe.{package}.{stage}").main(Context(config, store, record))
        finally:
            record.artefacts(store.used)
    folder = record.path
    if stage == "run":
        from ..report.page import run_page, write_page

        write_page(folder / "report.html", run_page(folder))
        log.info("report: %s", folder / "report.html")
    log.info("done in %.1f s: %s", record.manifest["seconds"], folder)
    print(folder, file=sys.stdout, flush=True)
