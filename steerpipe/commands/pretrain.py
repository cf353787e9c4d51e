"""`steer pretrain`: train a small model, score it on cells that it never saw, and write its card."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd

from ..models.checkpoints import load_model, provenance
from ..pipeline.pipeline import Pipeline
from ..pipeline.pretrained import own_cells, score_model, trained, training_counts
from ..run import Run

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Train, and report the curve, the scores and the card."""
    artefact = trained(pipeline)
    rows = [json.loads(line) for line in (artefact.path / "curve.jsonl").read_text().splitlines()]
    run.curve(rows)
    run.metrics({f"pretrain/{k}": v for k, v in rows[-1].items()})
    model = load_model(artefact.path)
    train = training_counts(pipeline.config, model.genes)
    tables = score_model(model, pipeline.config, train, max_cells=150)
    for what, table in tables.items():
        log.info("%s, %s:\n%s", pipeline.config.dataset.name, what, table.round(4).to_string(index=False))
        run.table(what, table)
    card = _card(pipeline, str(provenance(artefact.path)["licence"]), train, tables["masked"])
    run.text("model_card", card)
    log.info("%s", "\n".join(card))
    log.info("model: %s (use it with model=local model.path=%s)", artefact.path, artefact.path)


def _card(pipeline: Pipeline, licence: str, train: np.ndarray, masked: pd.DataFrame) -> list[str]:
    """What the model is, what it saw and what it did not, and how good it is."""
    config, scores = pipeline.config, masked.set_index("predictor")["mse_over_mean"]
    unseen = "its test cells and dataset.held stayed out" if own_cells(config) else "another dataset than the scored one"
    held = f"; held-out perturbations: {', '.join(config.dataset.held)}" if config.dataset.held and own_cells(config) else ""
    others = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "model")
    return [
        f"A network of AIDO's architecture, {train.shape[1]} genes (panel: {config.pretrain.panel}); it is not AIDO.Cell.",
        f"Trained on {len(train)} cells of {config.pretrain.dataset}: {unseen}{held}.",
        f"Masked genes of {config.dataset.name}, squared error over the gene mean's: model {scores['model']:.3f}, {others}.",
        f"Licence: {licence}.",
    ]
