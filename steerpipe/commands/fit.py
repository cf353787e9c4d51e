"""`steer fit`: the steering vector of one objective at one lambda."""

from __future__ import annotations

import logging

from ..pipeline.checkpoint import require_head
from ..pipeline.fit import fit, recipe_table, stand_in_table
from ..pipeline.pipeline import Pipeline
from ..pipeline.program import check_program
from ..run import Run

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Fit, and report counts, certificate, path and the recruited features."""
    require_head(pipeline.config, [pipeline.config.objective.name], "objective=latent")
    check_program(pipeline.config, [pipeline.config.objective.name])
    experiment = pipeline.experiment()
    recipe = fit(experiment, pipeline.config.objective)
    run.metrics({f"fit/{name}": value for name, value in recipe.info.items()})
    run.table("path", recipe.path)
    beside = stand_in_table(experiment, [recipe])
    table = recipe_table(recipe, experiment)
    if len(beside):
        table = table.merge(beside.drop(columns=["objective", "theta"]), on="feature", how="left")
    run.table("recipe", table)
    log.info(
        "%s objective: lambda %.4g (%.3g of lambda_max), %d features recruited, %d above 0.05",
        recipe.objective, recipe.info["lam"], recipe.info["ratio"], recipe.info["n_1e-06"], recipe.info["n_0.05"],
    )  # fmt: skip
