"""`steer transfer`: recipes of some cell types, scored on the held-out cells of others."""

from __future__ import annotations

import logging

from ...evaluate.inference import conclusions
from ...evaluate.tables import LEGEND
from ...pipeline.checkpoint import require_head
from ...pipeline.pipeline import Pipeline
from ...pipeline.scoring import require_multiply
from ...plot.provenance import caption
from ..findings import Findings
from . import figure as figures
from .compute import find_groups, score_all
from .table import marker_table, said, summary

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Fit on each type and on all others, score on each type, print and draw."""
    config, found = pipeline.config, Findings()
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    require_multiply(config, "transfer")
    experiment = pipeline.experiment(scored=True)
    groups = find_groups(experiment)
    for group in groups:
        log.info("%s: %d cells to fit, %d held out; target %d and %d",
                 group.name, len(group.fit), len(group.held), len(group.target_fit), len(group.target_held))  # fmt: skip
    scores, genes, sizes = score_all(experiment, groups)
    markers = genes[genes["gene"].isin(config.evaluate.markers)]
    for name, table in {"scores": scores, "genes": genes, "markers": markers, "recipes": sizes}.items():
        found.table(name, table)
    log.info("recipes:\n%s", sizes.to_string(index=False))
    log.info("held-out cells:\n%s\n%s", summary(scores).to_string(index=False), LEGEND)
    log.info("markers, share of the gap closed:\n%s", marker_table(markers).to_string(index=False))
    for row in scores[scores["relation"].isin(["own", "transferred"])].itertuples():
        found.metrics({f"{row.score_on}/{row.objective}/{row.relation}/{row.space}_{row.score}": row.value})
    lines = [*said(scores), *conclusions(scores[scores["relation"].isin(["own", "transferred"])])]
    found.text("conclusion", lines)
    log.info("%s", "\n".join(lines))
    text = caption(config, str(experiment.activations.policy))
    found.figure("transfer", figures.matrix(scores, text), scores[scores["kind"] == "recipe"])
    if len(markers):
        found.figure("transfer_markers", figures.markers(markers, text), markers)
    return found
