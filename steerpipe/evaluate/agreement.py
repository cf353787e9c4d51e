"""How alike the recipes of several dictionaries are: in what they do, and in the features that they recruit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

import numpy as np
import pandas as pd

SAME = 0.7
"""Decoder cosine from which two features of different dictionaries count as the same."""


def agreement_of_dictionaries(
    effects: Sequence[pd.DataFrame], recipes: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]
) -> pd.DataFrame:
    """Return one row a recipe.

    Parameters
    ----------
    effects : one a dictionary; columns recipe, space (layer, expression), at, change: the mean shift, dimension by dimension
    recipes : one a dictionary; recipe -> theta (F,), W_dec (F, D)

    Returns
    -------
    DataFrame
        recipe, dictionaries, features (mean number recruited), shift_cosine and its smallest (of the mean shift at the layer,
        mean over pairs), expression_cosine and its smallest (of the mean change of predicted expression), recur (share of
        recruited features that another dictionary's recipe recruits too: decoder cosine of at least SAME and the same sign of
        theta), exist (share that another dictionary has at all)
    """
    rows = []
    for name in recipes[0]:
        row: dict[str, float | str] = {"recipe": name, "dictionaries": len(recipes)}
        row["features"] = float(np.mean([np.count_nonzero(one[name][0]) for one in recipes]))
        for space, short in (("layer", "shift"), ("expression", "expression")):
            moves = [_effect(frame, name, space) for frame in effects]
            found = [_cosine(a, b) for a, b in combinations(moves, 2)]
            row[f"{short}_cosine"], row[f"{short}_cosine_min"] = float(np.mean(found)), float(np.min(found))
        pairs = [_shared(*a[name], *b[name]) for a, b in permutations(recipes, 2)]
        row["recur"], row["exist"] = (float(np.nanmean(column)) for column in zip(*pairs, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _effect(frame: pd.DataFrame, recipe: str, space: str) -> np.ndarray:
    some = frame[(frame["recipe"] == recipe) & (frame["space"] == space)].sort_values("at")
    return np.asarray(some["change"], np.float64)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else float("nan")


def _shared(theta: np.ndarray, W: np.ndarray, other: np.ndarray, W_other: np.ndarray) -> tuple[float, float]:
    """Share of one recipe's features that another recipe recruits alike, and that its dictionary has."""
    on = np.flatnonzero(theta)
    if not len(on):
        return float("nan"), float("nan")
    units, units_other = (M / np.maximum(np.linalg.norm(M, axis=1, keepdims=True), 1e-12) for M in (W, W_other))
    cosines = units[on] @ units_other.T
    alike = (cosines >= SAME) & (np.sign(theta[on])[:, None] == np.sign(other)[None])
    return float(alike.any(axis=1).mean()), float((np.abs(cosines) >= SAME).any(axis=1).mean())
