"""What a score is worth: against its permutation null, over dictionaries, and in words.

Cells are no replicates of one recipe, which moves them all alike. What is drawn anew are the sides (the permutation null), the
features (random recipes), the dictionary (its seed) and the donors (the intervals, where there are three or more).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
NAMED = 3
"""Recipes up to which an answer names each."""
OWN_SPACE = {"latent": "layer", "latent_final": "final", **dict.fromkeys(("expression", "mixed", "program"), "expression")}
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


@dataclass(frozen=True)
class Verdict:
    """What one recipe does to held-out cells in its own space: the score rows of the E-distance and of the gap closed."""

    recipe: str
    space: str
    distance: pd.Series
    gap: pd.Series

    @property
    def judged(self) -> bool:
        """Whether there is a null to judge it by."""
        return bool(np.isfinite([self.distance["p"], self.gap["p"]]).all())

    @property
    def p(self) -> float:
        """The larger of the two p-values."""
        return float(max(self.distance["p"], self.gap["p"]))

    @property
    def beyond(self) -> bool:
        """Whether both scores are better than in all but 5 % of its null: one question a recipe, asked beforehand."""
        return self.judged and self.p <= LEVEL

    @property
    def nearer(self) -> bool:
        """Whether it moves the population towards the target, and not only along the way to it."""
        return self.beyond and bool(self.distance["value"] < 0)


def verdicts(scores: pd.DataFrame) -> list[Verdict]:
    """Return the verdict on every recipe of a score table that was scored on held-out cells in its own space."""
    recipes = scores[(scores["kind"] == "recipe") & (scores["split"] == "held")]
    found = []
    for name, group in recipes.groupby("recipe", sort=False):
        space = OWN_SPACE.get(str(name).split(",")[0].split(" (")[0], "layer")
        table = group[group["space"] == space].set_index("score")
        if {"edistance", "gap"} <= set(table.index):
            found.append(Verdict(str(name), space, table.loc["edistance"], table.loc["gap"]))
    return found


def conclusions(scores: pd.DataFrame) -> list[str]:
    """Return in words what the recipes of a score table do to held-out cells, one line each, and one that sums up."""
    lines, every = [], verdicts(scores)
    for one in every:
        distance, gap = one.distance, one.gap
        if not one.judged:
            lines.append(f"{one.recipe}: no null was drawn, so nothing is claimed (evaluate.n_permutations).")
            continue
        seeds = int(distance["dictionaries"])
        over = f", mean of {seeds} dictionaries" if seeds > 1 else ""
        found = (
            f"E-distance to the target {distance['value']:+.0%} (null {distance['null_mean']:+.0%} "
            f"[{distance['null_lo']:+.0%}, {distance['null_hi']:+.0%}], p = {distance['p']:.2g}), "
            f"gap closed {gap['value']:.2f} (null {gap['null_mean']:.2f} [{gap['null_lo']:.2f}, {gap['null_hi']:.2f}], "
            f"p = {gap['p']:.2g}), held-out cells, {SPACE_NAMES[one.space]}{over}"
        )
        if one.beyond:
            way = "towards the target" if one.nearer else "along the way to the target, but not nearer to it"
            lines.append(f"{one.recipe}: moves the population {way}: {found}.")
        else:
            lines.append(f"{one.recipe}: nothing beyond its null: {found}.")
    if every and all(one.judged and not one.beyond for one in every):
        lines.append("Nothing: no recipe here does more than one fitted to cells that were dealt to the sides at random.")
    return lines


def answer(scores: pd.DataFrame) -> list[str]:
    """Return three sentences on a score table: how far the recipes go, against which null, on how many dictionaries.

    Two where no null was drawn; none where no recipe was scored in its own space. The first begins with "Nothing" when no
    recipe is beyond its null. More than three recipes of one kind are counted, and told by their range.
    """
    every = verdicts(scores)
    judged = [one for one in every if one.judged]
    if not every:
        return []
    if not judged:
        return ["Nothing is claimed: no null was drawn beside the fits (evaluate.n_permutations).", _over(every)]
    groups = {
        "Held-out cells move towards the target": [one for one in judged if one.nearer],
        "they go along the way, but get no nearer": [one for one in judged if one.beyond and not one.nearer],
        "not beyond its null in both scores": [one for one in judged if not one.beyond],
    }
    if not any(one.beyond for one in judged):
        groups = {"Nothing: cells dealt to the two sides at random give fits that do as much": judged}
    first = "; ".join(f"{words}: {_all_far(some)}" for words, some in groups.items() if some)
    return [f"{first[0].upper()}{first[1:]}.", _against(judged), _over(every)]


def _far(one: Verdict) -> str:
    distance = float(one.distance["value"])
    change = f"{abs(distance):.0%} {'shorter' if distance < 0 else 'longer'}"
    return f"{one.recipe} closes {one.gap['value']:.0%} of the gap in the {SPACE_NAMES[one.space]} (E-distance {change})"


def _all_far(some: list[Verdict]) -> str:
    """How far some recipes go: one by one, or, of many, their number and range."""
    if len(some) <= NAMED:
        return ", ".join(map(_far, some))
    distances = " to ".join(f"{edge([one.distance['value'] for one in some]):+.0%}" for edge in (min, max))
    spaces = " or the ".join(dict.fromkeys(SPACE_NAMES[one.space] for one in some))
    gaps = _range(one.gap["value"] for one in some)
    return f"{len(some)} recipes close {gaps} of the gap in the {spaces} (E-distance {distances})"


def _range(values: Iterable[float], form: str = ".0%") -> str:
    every = list(values)
    lo, hi = f"{min(every):{form}}", f"{max(every):{form}}"
    return lo if lo == hi else f"{lo} to {hi}"


def _against(judged: list[Verdict]) -> str:
    if len(judged) > NAMED:
        ends = f"{min(one.gap['null_lo'] for one in judged):.0%} to {max(one.gap['null_hi'] for one in judged):.0%}"
        deals = _range((one.gap["n_null"] for one in judged), ".0f")
        tested = f"p = {min(one.p for one in judged):.2g} to {max(one.p for one in judged):.2g}, {deals} deals each"
        many = f"{len(judged)} recipes are tested, of which chance alone passes at most {len(judged) * LEVEL:.1f}"
        return f"Of the same fits to cells dealt to the two sides at random, 95 in 100 close {ends} ({tested}); {many}."
    texts = [
        f"{one.gap['null_lo']:.0%} to {one.gap['null_hi']:.0%} for {one.recipe} "
        f"(p = {one.p:.2g}, {int(one.gap['n_null'])} deals)"
        for one in judged
    ]
    return f"Of the same fits to cells dealt to the two sides at random, 95 in 100 close {', '.join(texts)}."


def _over(every: list[Verdict]) -> str:
    n = int(every[0].gap["dictionaries"])
    if n == 1:
        return (
            "All of it is on one dictionary: how far another seed's would differ is not known (evaluate.dictionaries=5 says)."
        )
    if len(every) > NAMED:
        ranges = [_range([*(one.gap["lo"] for one in every), *(one.gap["hi"] for one in every)])]
    else:
        ranges = [f"{one.gap['lo']:.0%} to {one.gap['hi']:.0%} for {one.recipe}" for one in every]
    return f"These are means over {n} dictionaries that differ in their seed; one by one they close {', '.join(ranges)}."
