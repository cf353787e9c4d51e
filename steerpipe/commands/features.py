"""`steer features`: the features by their annotation, or those that a text is found in."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.table import Table

from ..interpret.tables import search
from ..pipeline.pipeline import Pipeline
from ..run import Run

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """List features, and write the whole list to the run folder."""
    config = pipeline.config.feature
    found = search(pipeline.annotation().features, config.find)
    run.table("features", found)
    run.metrics({"features/found": len(found)})
    known = "stability" in found
    table = Table("feature", "label", "q", "cell type", *(["seeds"] if known else []), "genes", box=None)
    for row in found.head(config.limit).itertuples():
        genes = " ".join(row.genes.split(", ")[:6])
        seeds = [f"{row.stability:.0%}"] if known else []
        table.add_row(
            str(row.feature), row.label or "-", f"{row.label_q:.2g}" if row.label else "-", row.top_type, *seeds, genes
        )
    Console().print(table)
    what = f" with '{config.find}'" if config.find else ""
    log.info("%d features%s; steer feature ID shows one", len(found), what)
