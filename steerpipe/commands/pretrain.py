"""`steer pretrain`: train a small model, score it on cells that it never saw, and write its card."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import Config, DatasetConfig, PretrainConfig
from ..models.checkpoints import load_aido, provenance
from ..pipeline.pipeline import Pipeline
from ..pipeline.pretrained import named, own_cells, score_model, trained, training_counts
from ..run import Run

log = logging.getLogger(__name__)
CELLS = 150
"""Cells of a dataset that the model is scored on, at the most."""


def main(pipeline: Pipeline, run: Run) -> None:
    """Train, and report the curve, the scores and the card."""
    artefact = trained(pipeline)
    rows = [json.loads(line) for line in (artefact.path / "curve.jsonl").read_text().splitlines()]
    run.curve(rows)
    run.metrics({f"pretrain/{k}": v for k, v in rows[-1].items()})
    model = load_aido(artefact.path)
    train = training_counts(pipeline.config, model.genes)
    scored = named(pipeline.config) or [pipeline.config.dataset]
    masked = {}
    for dataset in scored:
        tables = score_model(model, replace(pipeline.config, dataset=dataset), train, max_cells=CELLS)
        masked[_title(dataset)] = tables["masked"]
        for what, table in tables.items():
            log.info("%s, %s:\n%s", _title(dataset), what, table.round(4).to_string(index=False))
            run.table(what if len(scored) == 1 else f"{_title(dataset)}_{what}", table)
    if len(scored) > 1:
        table = _by_dataset(pipeline.config, masked)
        log.info("masked genes, squared error over the gene mean's:\n%s", table.round(3).to_string(index=False))
        run.table("masked", table)
    card = _card(pipeline, str(provenance(artefact.path)["licence"]), train, masked)
    run.text("model_card", card)
    log.info("%s", "\n".join(card))
    log.info("model: %s (use it with model=local model.path=%s)", artefact.path, artefact.path)


def _title(dataset: DatasetConfig) -> str:
    return dataset.name if dataset.path is None else Path(dataset.path).stem


def _by_dataset(config: Config, masked: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a dataset: errors of the model and of what is simpler, and of `mini` on its own panel; PBMC8K it has seen whole."""
    mini = load_aido("mini")
    train = training_counts(config, mini.genes)
    rows = []
    for dataset in named(config):
        row: dict[str, object] = {"dataset": _title(dataset)}
        row |= masked[_title(dataset)].set_index("predictor")["mse_over_mean"].to_dict()
        if dataset.name != PretrainConfig().dataset:
            table = score_model(mini, replace(config, dataset=dataset), train, max_cells=CELLS)["masked"]
            row["mini"] = table.set_index("predictor")["mse_over_mean"]["model"]
        rows.append(row)
    return pd.DataFrame(rows)


def _card(pipeline: Pipeline, licence: str, train: np.ndarray, masked: Mapping[str, pd.DataFrame]) -> list[str]:
    """What the model is, what it saw and what it did not, and how good it is."""
    config = pipeline.config
    unseen = "its test cells and dataset.held stayed out" if own_cells(config) else "another dataset than the scored one"
    if config.pretrain.datasets:
        unseen = "test cells of each stayed out"
    held = f"; held-out perturbations: {', '.join(config.dataset.held)}" if config.dataset.held and own_cells(config) else ""
    scores = {name: table.set_index("predictor")["mse_over_mean"] for name, table in masked.items()}
    lines = [f"Masked genes of {name}, squared error over the gene mean's: model {own['model']:.3f}, "
             + ", ".join(f"{what} {value:.3f}" for what, value in own.items() if what != "model") + "."
             for name, own in scores.items()]  # fmt: skip
    return [
        f"A network of AIDO's architecture, {train.shape[1]} genes (panel: {config.pretrain.panel}); it is not AIDO.Cell.",
        f"Trained on {len(train)} cells of {', '.join(map(_title, named(config))) or config.pretrain.dataset}: {unseen}{held}.",
        *lines,
        f"Licence: {licence}.",
    ]
