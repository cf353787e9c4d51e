"""`steer run`: the whole experiment."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .common import Context
from .dictionary import dictionary
from .evaluate import evaluation, report
from .extract import activations
from .plot import draw


def main(context: Context) -> None:
    """Build whatever is missing, score it and draw it."""
    found = evaluation(context)
    context.run.metrics(dictionary(context, activations(context)).scores)
    report(context, found)
    for recipe in found.recipes:
        on = np.flatnonzero(recipe.theta)
        on = on[np.argsort(-np.abs(recipe.theta[on]), kind="stable")]
        table = pd.DataFrame({"feature": on, "theta": recipe.theta[on], "alpha": 1 + recipe.theta[on]})
        context.run.table(f"recipe_{recipe.objective}", table)
    draw(context, found)
