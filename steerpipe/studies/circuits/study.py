"""`steer circuits`: from the responses of each layer's sources to edges, shares, tables and figures."""

from __future__ import annotations

import logging

from ...stages.common import Context
from .compute import prepared
from .explore import Exploration
from .report import report

log = logging.getLogger(__name__)


def study(context: Context) -> None:
    """Run the circuit and write its tables, figures and GraphML; with circuits.part, this part of the sources alone."""
    config, found = context.config.circuits, Exploration(prepared(context))
    whole = found.run()
    if config.part is None:
        report(found)
    else:
        rest = "all sources are there" if whole else "others are still to come"
        again = "the same command without circuits.part joins them"
        log.info("part %d of %d done; %s: %s", config.part, config.parts, rest, again)
