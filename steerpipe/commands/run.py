"""`steer run`: the whole experiment."""

from __future__ import annotations

import logging

import pandas as pd

from ..errors import SteerError
from ..evaluate.recruitment import recruited
from ..pipeline.pipeline import Pipeline
from ..run import Run
from .evaluate import report
from .plot import draw

log = logging.getLogger(__name__)
NAMES = ["feature", "label", "label_q", "expressed", "top_type", "genes"]
N_GENES = 8


def main(pipeline: Pipeline, run: Run) -> None:
    """Build whatever is missing, score it, name the recruited features and draw."""
    found = pipeline.evaluation()
    run.metrics(pipeline.dictionary().scores)
    report(run, found, pipeline.config.evaluate.markers)
    every: set[int] = set()
    for recipe in found.recipes:
        on = recruited(recipe.theta)
        table = pd.DataFrame({"feature": on, "theta": recipe.theta[on], "alpha": 1 + recipe.theta[on]})
        run.table(f"recipe_{recipe.objective}", table)
        every.update(on.tolist())
    try:
        names = pipeline.annotation().features[NAMES]
    except SteerError as error:  # a model of few genes, or of another species' sets, is steered all the same
        log.warning("the features get no names: %s", error)
    else:
        names = names[names["feature"].isin(every)]
        run.table("features", names.assign(genes=names["genes"].str.split(", ").str[:N_GENES].str.join(", ")))
    draw(pipeline, run, found)
