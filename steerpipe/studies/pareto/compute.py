"""The mixed objective at several weights, each scored against its own null, beside controls."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd

from ...evaluate.inference import COLUMNS
from ...evaluate.recruitment import counts
from ...pipeline.experiment import Experiment
from ...pipeline.fit import fit
from ...pipeline.scoring import scored, scorer
from ...progress import track
from ...steering.controls import random_recipe

log = logging.getLogger(__name__)


def front_scores(experiment: Experiment, weights: list[float], *, n_random: int) -> pd.DataFrame:
    """Return the scores of a fit at every weight, each against its own null, and of controls (evaluate.inference.COLUMNS).

    The control is features drawn at random with the strengths of the recipe at the first and at the last weight. Further
    columns: weight (NaN for controls), features.
    """
    config = experiment.context.config
    how = scorer(experiment)
    control = {"kind": "control", "split": "held", "weight": np.nan, "dictionaries": 1}
    rows = [pd.DataFrame(how.rows_of(how.base)).assign(recipe="no change", features=0, seeds=1, **control)]
    ordered = sorted(set(weights))
    for weight in track(ordered, "weights", len(ordered)):
        recipe = fit(experiment, replace(config.objective, name="mixed", weight=weight))
        name, n = f"mixed, weight {weight:g}", counts(recipe.theta)["n_1e-06"]
        rows.append(scored(experiment, recipe, how, name).assign(weight=weight, features=n))
        if weight in (ordered[0], ordered[-1]):
            rng = np.random.default_rng([config.seed, 9])
            thetas = [random_recipe(recipe.theta, experiment.active, rng) for _ in range(n_random)]
            seeds = [pd.DataFrame(how.rows_of(how.recipe(theta, config.objective.mode), intervals=False)) for theta in thetas]
            mean = pd.concat(seeds).groupby(["space", "score"], sort=False).mean(numeric_only=True).reset_index()
            rows.append(mean.assign(recipe=f"random features, as weight {weight:g}", features=n, seeds=n_random, **control))
    table = pd.concat(rows, ignore_index=True)
    return table[[*COLUMNS, "weight", "features"]]
