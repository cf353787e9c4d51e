"""`steer annotate`: what the features mean, beside what neurons, PCA, FastICA and a random SAE would give."""

from __future__ import annotations

import logging

from ..interpret import tables
from ..pipeline.annotation import comparison, own_row
from ..pipeline.pipeline import Pipeline
from ..plot import annotation as figures
from ..plot.provenance import annotation_caption
from ..run import Run

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Annotate, and report tables, figures and the comparison of dictionaries."""
    config = pipeline.config
    found = pipeline.annotation()
    found.features.to_parquet(run.path / "features.parquet", index=False)
    found.enrichment.to_parquet(run.path / "enrichment.parquet", index=False)
    run.table("features", found.features.drop(columns=["genes"]))
    run.table("modules", found.modules)
    run.table("cell_types", found.types)
    table, spread = comparison(pipeline) if config.annotate.baselines else own_row(found)
    run.table("dictionaries", table)
    for row in table.to_dict("records"):
        run.metrics({f"{row['dictionary']}/{name}": value for name, value in row.items() if name != "dictionary"})
    text = annotation_caption(config, found.scores["sets"], found.scores["background"])
    run.figure("dictionaries", figures.dictionaries(table, spread, text), spread)
    if len(found.modules):
        layout = figures.graph_layout(found.edges, found.features, config.annotate.seed)
        run.figure("feature_graph", figures.feature_graph(layout, found.edges, found.modules, text), layout)
    log.info("ten best-annotated features:\n%s", tables.best(found.features, 10).to_string(index=False))
    log.info("dictionaries:\n%s", tables.readable(table).to_string(index=False))
