"""`steer pareto`: the front of latent distance and expression."""

from __future__ import annotations

import logging

from ...evaluate.inference import answer, conclusions
from ...evaluate.tables import LEGEND
from ...pipeline.checkpoint import require_head
from ...pipeline.pipeline import Pipeline
from ...plot.provenance import caption
from ..findings import Findings
from .compute import front_scores
from .figure import pareto
from .table import SHOWN, front, readable

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Fit at every weight, score held-out cells against the null of each, print and draw the front."""
    config, found = pipeline.config, Findings()
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    experiment = pipeline.experiment(scored=True)
    scores = front_scores(experiment, config.pareto.weights, n_random=config.pareto.n_random)
    table = front(scores)
    found.table("scores", scores)
    found.table("front", table)
    for row in table[table["weight"].notna()].itertuples():
        for name in SHOWN:
            found.metrics({f"weight={row.weight:g}/{name}": getattr(row, name)})
    log.info("held-out cells:\n%s\n%s", readable(table).to_string(index=False), LEGEND)
    lines = [*answer(scores), *conclusions(scores)]
    found.text("conclusion", lines)
    log.info("%s", "\n".join(lines))
    text = caption(config, str(experiment.activations.policy))
    found.figure("pareto", pareto(table, text), table)
    return found
