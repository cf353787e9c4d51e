"""The verdicts: which recruited features are real, how often the same is said where there is nothing, and both in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...evaluate.floors import LEVEL, REAL, VERDICTS, calibration, null_p, verdicts
from ...evaluate.tables import printed
from ...pipeline.experiment import Experiment
from ...pipeline.fit import Recipe
from . import compute, floors

SPACES = ("layer_", "final_", "expression_", "de_", "steering_de_")
SHOWN = {"layer_edistance": "E-distance, layer", "layer_gap": "gap, layer", "expression_edistance": "E-distance, expression",
         "expression_gap": "gap, expression"}  # fmt: skip


def feature_table(experiment: Experiment, recipes: dict[str, Recipe]) -> pd.DataFrame:
    """Return one row a recruited feature and objective: activity, effect, their floors, stability, and the verdict.

    `extra` marks the features that the expression objective recruits and the latent one does not.
    """
    config = experiment.context.config.diagnose
    activity = experiment.activity[experiment.fit_rows].mean(0)
    frames = []
    for name, recipe in recipes.items():
        on = np.flatnonzero(recipe.theta)
        frame = pd.DataFrame({"objective": name, "feature": on, "theta": recipe.theta[on], "activation": activity[on]})
        frame["extra"] = (name == "expression") & (recipes["latent"].theta[on] == 0)
        if "floors" in config.parts:
            frame["activation_floor"] = _activation_floor(experiment)[on]
            effects = floors.effect_floor(experiment, recipe, n_matched=config.n_matched, percentile=config.percentile)
            frame = frame.merge(effects[["feature", "effect", "effect_floor"]], on="feature")
            frame["null_p"] = null_p(frame["effect"].to_numpy(), floors.null_effects(experiment, recipe))
        if "stability" in config.parts:
            sizes = {"n_refits": config.n_refits, "n_cells": config.refit_cells, "max_steps": config.refit_steps}
            frame["stability"] = compute.stability(experiment, name, **sizes)[on]
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    if {"floors", "stability"} <= set(config.parts):
        table["verdict"] = verdicts(table, stable=config.stable)
    order = table["theta"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].sort_values("objective", ascending=False, kind="stable").reset_index(drop=True)


def verdict_table(features: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts: of each objective's features, and of the extra ones of the expression objective."""
    groups = {name: features["objective"] == name for name in compute.NAMES}
    groups |= {name: features["objective"] == name for name in features["objective"].unique()}
    groups["extra of expression"] = groups["expression"] & features["extra"]
    rows = []
    for name, chosen in groups.items():
        some = features[chosen]
        above = {"activation": some["activation"] > some["activation_floor"], "effect": some["effect"] > some["effect_floor"]}
        both = int((above["activation"] & above["effect"]).sum())
        for verdict in VERDICTS:
            rows.append({"features": name, "verdict": verdict, "n": int((some["verdict"] == verdict).sum()), "of": len(some)})
        single = {"above activation floor": int(above["activation"].sum()), "above effect floor": int(above["effect"].sum())}
        rows += [{"features": name, "verdict": v, "n": n, "of": len(some)} for v, n in {**single, "above both": both}.items()]
    return pd.DataFrame(rows)


def calibration_table(experiment: Experiment, recipes: dict[str, Recipe]) -> pd.DataFrame:
    """Return, per objective, how many features of contrasts without a difference would be called real by their effect.

    Each deal of the permutation null is judged by the others. Columns: objective, features, called, share, deals,
    deals_with_any.
    """
    rows = []
    for name, recipe in recipes.items():
        n, called, deals, with_any = calibration(floors.null_effects(experiment, recipe))
        share = called / n if n else 0.0
        rows.append({"objective": name, "features": n, "called": called, "share": share, "deals": deals})
        rows[-1]["deals_with_any"] = with_any
    return pd.DataFrame(rows)


def conclusion(features: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Return in words which recruited features are real, and how often the same is said where there is nothing."""
    lines = []
    for row in table.itertuples():
        some = features[features["objective"] == row.objective]
        real, beyond = int((some["verdict"] == REAL).sum()), int((some["null_p"] <= LEVEL).sum())
        where = f"of the {row.features} features that {row.deals} contrasts without a difference recruit, {row.called} pass"
        if not beyond:
            lines.append(f"{row.objective}: cannot tell that any of the {len(some)} features is real ({where}).")
        else:
            lines.append(
                f"{row.objective}: {beyond} of {len(some)} features do more than any feature does in 95 % of the contrasts "
                f"without a difference ({where}); {real} of them are above both floors and stable."
            )
    if not (features["null_p"] <= LEVEL).any():
        lines.append("Nothing: no feature here does more than those recruited by chance.")
    lines.append(
        "All of it is on one dictionary: whether another seed's has these features is not known (the column stability is over "
        "refits of the recipe; `steer stability` trains other seeds)."
    )
    return lines


def background(experiment: Experiment) -> tuple[int, int]:
    """Return how many of all active features are above the activation floor, and how many there are."""
    activity, floor = experiment.activity[experiment.fit_rows].mean(0), _activation_floor(experiment)
    return int((activity > floor)[experiment.active].sum()), int(experiment.active.sum())


def _activation_floor(experiment: Experiment) -> np.ndarray:
    config = experiment.context.config.diagnose
    sizes = {"n_permutations": config.n_permutations, "n_cells": config.permuted_cells}
    return floors.activation_floor(experiment, **sizes, percentile=config.percentile)


def readable(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read: scores as text, within their null marked."""
    if name == "verdicts":
        return table.pivot_table(index="verdict", columns="features", values="n", sort=False).astype(int).reset_index()
    first = table[[c for c in table if not c.startswith(SPACES)]].round(4)
    return pd.concat([first, printed(table, SHOWN)], axis=1)
