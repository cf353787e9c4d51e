"""`steer check-approximation`: how far running a cell on its expressed genes alone strays from running all genes."""

from __future__ import annotations

from ..pipeline.approximation import deviations
from ..pipeline.pipeline import Pipeline
from ..run import Run


def main(pipeline: Pipeline, run: Run) -> None:
    """Compare both ways on a few cells, print the deviations, one row a measure, and store them a row a cell."""
    table = deviations(pipeline)
    run.table("approximation", table)
    means = table.drop(columns="cell").mean()
    run.metrics({f"approximation/{name}": float(value) for name, value in means.items()})
    print(means.rename("mean over cells").round(4).to_string(), flush=True)
