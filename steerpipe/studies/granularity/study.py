"""`steer granularity`: how many features a change of state takes."""

from __future__ import annotations

import logging

import pandas as pd

from ...errors import SteerError
from ...pipeline.checkpoint import require_head
from ...pipeline.experiment import prepare
from ...pipeline.pipeline import Pipeline
from ...pipeline.scoring import require_multiply
from ...plot.provenance import model_phrase, sae_phrase
from ...progress import track
from ..findings import Findings
from ..labelled import labels_finder
from .compute import Groups, measured
from .figure import granularity
from .table import curves, lines, readable, target_row
from .targets import check, find_targets

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Fit and score every unit of every target, print and draw."""
    config, found = pipeline.config, Findings()
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    require_multiply(config, "granularity")
    if config.objective.tokens != "genes":
        raise SteerError("granularity reads means over all genes: use objective.tokens=genes.")
    check(config)
    experiment = prepare(pipeline, find=labels_finder(config, "granularity"))
    targets, groups = find_targets(experiment), Groups.of(experiment)
    rows, every, drawn, shapes = [], [], [], []
    for target in track(targets, "targets", len(targets)):
        units, random = measured(experiment, target, groups)
        label = {"target": target.name, "kind": target.kind}
        n = {"source_cells": len(target.sides.source), "target_cells": len(target.sides.target), "held": len(target.held)}
        rows.append({**label, **n, **target_row(units, random)})
        every.append(units.assign(**label))
        drawn.append(random.assign(**label))
        shapes.append(curves(units, random).assign(**label))
    table, shape = pd.DataFrame(rows), pd.concat(shapes, ignore_index=True)
    found.table("targets", table)
    found.table("units", pd.concat(every, ignore_index=True))
    found.table("random", pd.concat(drawn, ignore_index=True))
    log.info("held-out cells; shares are of the dense vector's gap:\n%s", readable(table).to_string(index=False))
    said = lines(table)
    found.text("conclusion", said)
    log.info("%s", "\n".join(said))
    for row in table.itertuples():
        found.metrics({f"{row.target}/n50": row.n50, f"{row.target}/single_share": row.single_share})
    text = f"{model_phrase(config)} · layer {config.layer.index} · {sae_phrase(config)} · {len(table)} targets, held-out cells"
    found.figure("granularity", granularity(shape, table, text), shape)
    return found
