"""`steer run`: the whole experiment."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from ..errors import SteerError
from .annotate import annotation
from .common import Context
from .dictionary import dictionary
from .evaluate import evaluation, report
from .extract import activations
from .plot import draw

log = logging.getLogger(__name__)
NAMES = ["feature", "label", "label_q", "expressed", "top_type", "genes"]
N_GENES = 8


def main(context: Context) -> None:
    """Build whatever is missing, score it, name the recruited features and draw."""
    found = evaluation(context)
    context.run.metrics(dictionary(context, activations(context)).scores)
    report(context, found)
    recruited: set[int] = set()
    for recipe in found.recipes:
        on = np.flatnonzero(recipe.theta)
        on = on[np.argsort(-np.abs(recipe.theta[on]), kind="stable")]
        table = pd.DataFrame({"feature": on, "theta": recipe.theta[on], "alpha": 1 + recipe.theta[on]})
        context.run.table(f"recipe_{recipe.objective}", table)
        recruited.update(on.tolist())
    try:
        names = annotation(context).features[NAMES]
    except SteerError as error:  # a model of few genes, or of another species' sets, is steered all the same
        log.warning("the features get no names: %s", error)
    else:
        names = names[names["feature"].isin(recruited)]
        context.run.table("features", names.assign(genes=names["genes"].str.split(", ").str[:N_GENES].str.join(", ")))
    draw(context, found)
