"""`steer pareto`: what latent distance costs in expression, by the mixed objective at several weights."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd

from ..evaluate.inference import COLUMNS, conclusions
from ..evaluate.recruitment import counts
from ..evaluate.tables import LEGEND, printed, wide
from ..plot import recipes as figures
from ..progress import track
from ..steering.controls import random_recipe
from .checkpoint import require_head
from .common import Context
from .experiment import Experiment, prepare
from .fit import fit
from .plot import caption
from .scoring import scored, scorer

log = logging.getLogger(__name__)
SHOWN = {
    "layer_edistance": "E-distance, layer",
    "expression_edistance": "E-distance, expression",
    "layer_gap": "gap, layer",
    "expression_gap": "gap, expression",
    "layer_change": "closer by, layer",
    "de_change": "closer by, DE genes",
}


def main(context: Context) -> None:
    """Fit at every weight, score held-out cells against the null of each, print and draw the front."""
    config, run = context.config, context.run
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    experiment = prepare(context, scored=True)
    scores = front_scores(experiment, config.pareto.weights, n_random=config.pareto.n_random)
    table = front(scores)
    run.table("scores", scores)
    run.table("front", table)
    for row in table[table["weight"].notna()].itertuples():
        for name in SHOWN:
            run.metrics({f"weight={row.weight:g}/{name}": getattr(row, name)})
    shown = pd.concat([table[["recipe", "n"]], printed(table, SHOWN)], axis=1)
    log.info("held-out cells:\n%s\n%s", shown.to_string(index=False), LEGEND)
    lines = conclusions(scores)
    run.text("conclusion", lines)
    log.info("%s", "\n".join(lines))
    text = caption(config, str(experiment.activations.policy))
    run.figure("pareto", figures.pareto(table, text), table)


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
            seeds = [pd.DataFrame(how.rows_of(how.recipe(theta), intervals=False)) for theta in thetas]
            mean = pd.concat(seeds).groupby(["space", "score"], sort=False).mean(numeric_only=True).reset_index()
            rows.append(mean.assign(recipe=f"random features, as weight {weight:g}", features=n, seeds=n_random, **control))
    table = pd.concat(rows, ignore_index=True)
    return table[[*COLUMNS, "weight", "features"]]


def front(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row a weight or control: recipe, weight, n, and evaluate.tables.wide of its scores."""
    rows = []
    for name, group in scores.groupby("recipe", sort=False):
        head = {"recipe": name, "weight": group["weight"].iloc[0], "n": int(group["features"].iloc[0])}
        rows.append(head | wide(group))
    return pd.DataFrame(rows)
