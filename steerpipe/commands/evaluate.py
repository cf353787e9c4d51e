"""`steer evaluate`: every fit on cells that it never saw, beside its controls and its permutation null."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..evaluate.inference import conclusions
from ..evaluate.tables import LEGEND, headline, summary
from ..pipeline.evaluation import Evaluation
from ..pipeline.pipeline import Pipeline
from ..pipeline.program_scores import RECIPE, row_of, verdict
from ..run import Run

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Evaluate, and report the table."""
    report(run, pipeline.evaluation(), pipeline.config.evaluate.markers)


def report(run: Run, found: Evaluation, markers: Sequence[str]) -> None:
    """Write an evaluation's tables and numbers to the run folder, and say what they come to."""
    run.table("scores", found.scores)
    run.table("headline", headline(found.scores))
    run.table("genes", found.genes[found.genes["kind"] == "recipe"])
    run.table("markers", found.genes[found.genes["gene"].isin(markers)])
    missing = [gene for gene in markers if gene not in set(found.genes["gene"])] if len(found.genes) else []
    if missing:
        log.warning(
            "evaluate.markers: the dataset has no %s among the model's genes; markers.csv leaves them out", ", ".join(missing)
        )
    run.table("agreement", found.agreement)
    run.table("directions", found.directions.rename(columns={"p": "binomial_p"}))
    for name in ("paths", "cumulative", "steering_genes", "entanglement", "stand_ins"):
        run.table(name, getattr(found, name))
    if len(found.dictionaries):
        run.table("over_dictionaries", found.dictionaries)
        log.info("over dictionaries:\n%s", found.dictionaries.round(3).to_string(index=False))
    for recipe in found.recipes:
        run.metrics({f"{recipe.objective}/{name}": value for name, value in recipe.info.items()})
    held = found.scores[(found.scores["split"] == "held") & (found.scores["kind"] != "control")]
    for row in held.itertuples():
        run.metrics({f"{row.recipe}/{row.space}_{row.score}": row.value})
        if np.isfinite(row.p):
            run.metrics({f"{row.recipe}/{row.space}_{row.score}_p": row.p})
    log.info("held-out cells, the population:\n%s\n%s", summary(found.scores).to_string(index=False), LEGEND)
    for name, group in found.entanglement.groupby("recipe", sort=False):
        run.metrics({f"{name}/entanglement": float(group["entanglement"].mean())})
    lines = conclusions(found.scores)
    if len(found.programs):
        run.table("programs", found.programs)
    for recipe in found.recipes:
        if recipe.settings.name == "program" and recipe.theta.any():
            risen = found.programs[found.programs["recipe"] == recipe.objective]
            best = row_of(risen, RECIPE)
            run.metrics(
                {f"{recipe.objective}/{name}": float(best[name]) for name in ("rise", "sds", "p_program", "p_features")}
            )
            lines.append(verdict(recipe.objective, risen, int((recipe.theta != 0).sum())))
    run.text("conclusion", lines)
    log.info("%s", "\n".join(lines))
