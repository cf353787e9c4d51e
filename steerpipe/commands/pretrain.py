"""`steer pretrain`: train the embedded model, then score it on data that it never saw."""

from __future__ import annotations

import json
import logging

from ..models.checkpoints import load_aido
from ..pipeline.pipeline import Pipeline
from ..pipeline.pretrained import score_model, trained, training_counts
from ..run import Run

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Train, and report the curve and the scores."""
    artefact = trained(pipeline)
    rows = [json.loads(line) for line in (artefact.path / "curve.jsonl").read_text().splitlines()]
    run.curve(rows)
    run.metrics({f"pretrain/{k}": v for k, v in rows[-1].items()})
    model = load_aido(artefact.path)
    train = training_counts(pipeline.config.pretrain.dataset, model.genes)
    for what, table in score_model(model, pipeline.config, train, max_cells=150).items():
        log.info("%s, %s:\n%s", pipeline.config.dataset.name, what, table.round(4).to_string(index=False))
        run.table(what, table)
    log.info("model: %s (use it with model=local model.path=%s)", artefact.path, artefact.path)
