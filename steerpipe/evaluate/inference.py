"""What a score is worth: against its permutation null, over dictionaries, and in words.

Cells are no replicates of one recipe, which moves them all alike. What is drawn anew are the sides (the permutation null), the
features (random recipes), the dictionary (its seed) and the donors (the intervals, where there are three or more).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .population import SCORES, permutation_p

COLUMNS = [
    "recipe", "kind", "split", "space", "score", "value", "lo", "hi", "floor", "null_mean", "null_lo", "null_hi", "p",
    "dictionaries", "n", "seeds", "n_null", "resampled",
]  # fmt: skip
PER_CELL = {"closer": "higher", "change": "lower"}
"""The scores of the published reading, and which way is better."""
LEVEL = 0.05
OWN_SPACE = {"latent": "layer", "latent_final": "final", "expression": "expression", "mixed": "expression"}
"""The space in which an objective is judged first: its own."""
SPACE_NAMES = {"layer": "steered layer", "final": "final embedding", "expression": "predicted expression of the DE genes"}
KEYS = ["recipe", "split", "space", "score"]


def better(score: str) -> str:
    """Return which way a score is better: lower, higher or near_one."""
    return PER_CELL[score] if score in PER_CELL else SCORES[score].better


def add_null(rows: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Return score rows with the columns of COLUMNS, those of the null filled in where there is one.

    Parameters
    ----------
    rows : columns recipe, split, space, score, value, ...
    null : columns recipe, split, space, score, value, one row a deal (more columns do not matter)
    """
    groups = {key: group["value"].to_numpy(float) for key, group in null.groupby(KEYS, sort=False)} if len(null) else {}
    found = []
    for key, value in zip(rows[KEYS].itertuples(index=False, name=None), rows["value"], strict=True):
        values = groups.get(key)
        test = permutation_p(float(value), np.empty(0) if values is None else values, better(key[3]))
        found.append({"null_mean": test.mean, "null_lo": test.lo, "null_hi": test.hi, "p": test.p, "n_null": test.n})
    out = pd.concat([rows.reset_index(drop=True), pd.DataFrame(found)], axis=1)
    return out.reindex(columns=[*COLUMNS, *(c for c in out if c not in COLUMNS)])


def over_seeds(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Average the seeds of a random control; their 2.5 and 97.5 percentiles become its interval."""
    groups = rows.groupby(keys, sort=False)
    seeds, means = groups.size().to_numpy(), groups.mean(numeric_only=True).reset_index()
    for bound, q in (("lo", 0.025), ("hi", 0.975)):
        if bound in means:
            means[bound] = np.where(seeds > 1, groups["value"].quantile(q).to_numpy(), means[bound])
    return means.assign(seeds=seeds)


def over_dictionaries(scores: list[pd.DataFrame], nulls: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean of score tables over dictionaries: lo and hi are their smallest and largest value.

    The null of a mean is the mean over dictionaries of each deal, which all of them share.

    Parameters
    ----------
    scores, nulls : one of each a dictionary; see add_null
    """
    rows = pd.concat(scores, ignore_index=True)
    keys = ["recipe", "kind", "split", "space", "score"]
    groups = rows.groupby(keys, sort=False)
    mean = groups[["value", "floor", "n", "seeds"]].mean().reset_index()
    mean["lo"], mean["hi"] = groups["value"].min().to_numpy(), groups["value"].max().to_numpy()
    mean["resampled"] = "dictionaries"
    mean["dictionaries"] = groups.size().to_numpy()
    null = pd.concat(nulls, ignore_index=True)
    if len(null):
        null = null.groupby([*KEYS, "deal"], sort=False)["value"].mean().reset_index()
    return add_null(mean, null)


def conclusions(scores: pd.DataFrame) -> list[str]:
    """Return in words what the recipes of a score table do to held-out cells, one line each, and one that sums up.

    A recipe is said to change identity when, in its own space, both the E-distance and the gap closed are better than in all
    but 5 % of its null: one question a recipe, asked before anything was looked at.
    """
    recipes = scores[(scores["kind"] == "recipe") & (scores["split"] == "held")]
    lines, real = [], 0
    for name, group in recipes.groupby("recipe", sort=False):
        space = OWN_SPACE.get(str(name).split(",")[0].split(" (")[0], "layer")
        table = group[group["space"] == space].set_index("score")
        if not {"edistance", "gap"} <= set(table.index):
            continue
        distance, gap = table.loc["edistance"], table.loc["gap"]
        if not np.isfinite([distance["p"], gap["p"]]).all():
            lines.append(f"{name}: no null was drawn, so nothing is claimed (evaluate.n_permutations).")
            continue
        beyond = max(distance["p"], gap["p"]) <= LEVEL
        real += beyond
        seeds = int(distance["dictionaries"])
        over = f", mean of {seeds} dictionaries" if seeds > 1 else ""
        found = (
            f"E-distance to the target {distance['value']:+.0%} (null {distance['null_mean']:+.0%} "
            f"[{distance['null_lo']:+.0%}, {distance['null_hi']:+.0%}], p = {distance['p']:.2g}), "
            f"gap closed {gap['value']:.2f} (null {gap['null_mean']:.2f} [{gap['null_lo']:.2f}, {gap['null_hi']:.2f}], "
            f"p = {gap['p']:.2g}), held-out cells, {SPACE_NAMES[space]}{over}"
        )
        if beyond:
            way = "towards the target" if distance["value"] < 0 else "along the way to the target, but not nearer to it"
            lines.append(f"{name}: moves the population {way}: {found}.")
        else:
            lines.append(f"{name}: nothing beyond its null: {found}.")
    if lines and not real and not any("no null" in line for line in lines):
        lines.append("Nothing: no recipe here does more than one fitted to cells that were dealt to the sides at random.")
    return lines
