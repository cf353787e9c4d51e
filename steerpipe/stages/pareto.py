"""`steer pareto`: what latent distance costs in expression, by the mixed objective at several weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..evaluate.recruitment import counts
from ..plot import recipes as figures
from ..progress import track
from ..steering.controls import random_recipe
from .checkpoint import require_head
from .common import Context
from .experiment import Experiment, prepare
from .fit import fit
from .plot import caption
from .scoring import held_out

log = logging.getLogger(__name__)


def main(context: Context) -> None:
    """Fit at every weight, score held-out cells, print and draw the front."""
    config, run = context.config, context.run
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    experiment = prepare(context)
    table = front(experiment, config.pareto.weights, n_random=config.pareto.n_random)
    run.table("front", table)
    for row in table[table["weight"].notna()].itertuples():
        run.metrics(
            {f"weight={row.weight:g}/layer_change": row.layer_change, f"weight={row.weight:g}/de_change": row.de_change}
        )
    shown = ["recipe", "weight", "n", "layer_change", "final_change", "de_up_change", "de_down_change", "de_change"]
    log.info("held-out cells, median change of distance:\n%s", table[shown].round(4).to_string(index=False))
    run.figure("pareto", figures.pareto(table, caption(config, str(experiment.activations.policy))), table)


def front(experiment: Experiment, weights: list[float], *, n_random: int) -> pd.DataFrame:
    """Return one row a weight, and one a control; every fit at the configured lambda.

    `de_change` is the mean of the median changes on the DE genes that rise and on those that fall. The control is
    features drawn at random with the strengths of the recipe at weight 0 and at weight 1.
    """
    seed = experiment.context.config.seed
    objective = experiment.context.config.objective
    scorer = held_out(experiment)
    rows: list[dict[str, Any]] = [
        {"recipe": "no change", "weight": np.nan, "n": 0, **scorer.wide(np.zeros(experiment.sae.n_features))}
    ]
    ordered = sorted(set(weights))
    for weight in track(ordered, "weights", len(ordered)):
        theta = fit(experiment, replace(objective, name="mixed", weight=weight)).theta
        rows.append({"recipe": "mixed", "weight": weight, "n": counts(theta)["n_1e-06"], **scorer.wide(theta)})
        if weight in (ordered[0], ordered[-1]):
            rng = np.random.default_rng([seed, 9])
            for _ in range(n_random):
                control = scorer.wide(random_recipe(theta, experiment.active, rng))
                rows.append(
                    {"recipe": f"random features, as weight {weight:g}", "weight": np.nan, "n": rows[-1]["n"], **control}
                )
    table = pd.DataFrame(rows)
    table["de_change"] = table[["de_up_change", "de_down_change"]].mean(axis=1)
    return table
