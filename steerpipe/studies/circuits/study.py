"""`steer circuits`: from the responses of each layer's sources to edges, shares, tables and figures."""

from __future__ import annotations

import logging

from ...pipeline.pipeline import Pipeline
from ..findings import Findings
from .compute import prepared
from .explore import Exploration
from .report import report

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Run the circuit, and return its tables, figures and GraphML; with circuits.part, run this part of the sources alone."""
    config, explored = pipeline.config.circuits, Exploration(prepared(pipeline))
    whole = explored.run()
    if config.part is None:
        return report(explored)
    rest = "all sources are there" if whole else "others are still to come"
    again = "the same command without circuits.part joins them"
    log.info("part %d of %d done; %s: %s", config.part, config.parts, rest, again)
    return Findings()
