"""Is a recruited feature real? Noise floors, selection stability, and the verdict they give.

Definitions: floors (a) activation and (b) effect, each a percentile of what chance does; stability is the share of
half-sample refits that recruit the feature.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from .recruitment import THRESHOLDS

VERDICTS = ("both floors, stable", "both floors, unstable", "one floor", "neither floor", "cannot tell")
"""Best first; the last is for a feature whose effect fits to cells dealt at random between the sides reach as well."""
REAL = VERDICTS[0]
LEVEL = 0.05


def permuted_cells(counts: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Deal each gene's values out over the cells anew and return n of the new cells, (n, G).

    Parameters
    ----------
    counts : (N, G); every gene is permuted on its own, so that its values stay and what goes with what is lost
    n : at most N. The cells of one permutation are exchangeable, so any n of them have its distribution
    """
    order = rng.random(counts.shape).argsort(axis=0)[:n]
    return np.asarray(np.take_along_axis(counts, order, axis=0))


def matched_features(feature: int, activity: np.ndarray, candidates: np.ndarray, n: int) -> np.ndarray:
    """Return the n candidates of activity nearest to a feature's own, int64 (n,), or all when there are fewer.

    Parameters
    ----------
    activity : (F,) mean |z|; nearness is of its logarithm
    candidates : bool (F,); the feature itself is never one
    """
    others = np.flatnonzero(candidates & (activity > 0))
    others = others[others != feature]
    ratio = np.abs(np.log(activity[others]) - np.log(max(activity[feature], 1e-300)))
    return np.asarray(others[np.argsort(ratio, kind="stable")[:n]])


def effect_and_null(
    value: Callable[[np.ndarray], float], theta: np.ndarray, feature: int, others: np.ndarray, *, loss: float
) -> tuple[float, np.ndarray]:
    """Return what the objective loses when one feature is put back to alpha = 1, and what it would lose for others.

    Each of the others takes the feature's place, with the same theta, and is then put back.

    Parameters
    ----------
    value : the objective without its penalty
    theta : (F,) the recipe
    loss : value(theta)

    Returns
    -------
    effect, null (n,)
        above 0: the feature helped. Cost: n + 1 values of the objective
    """
    without = theta.copy()
    without[feature] = 0.0
    base = value(without)
    null = np.empty(len(others))
    for i, other in enumerate(others):
        swapped = without.copy()
        swapped[other] = theta[feature]
        null[i] = base - value(swapped)
    return base - loss, null


def recruited_share(thetas: np.ndarray) -> np.ndarray:
    """Share of refits (R, F) that recruit each feature, (F,)."""
    return np.asarray((np.abs(thetas) > THRESHOLDS[0]).mean(axis=0))


def null_p(effects: np.ndarray, null: list[np.ndarray]) -> np.ndarray:
    """Return each feature's p-value against the largest effect of any feature in each deal of the permutation null, (n,).

    The largest: so that a contrast without a difference has, in 95 of 100, no feature below .05, however many it recruits.

    Parameters
    ----------
    effects : (n,)
    null : effects of each deal's features; a deal that recruits none has none
    """
    largest = np.array([max(one, default=-np.inf) for one in null])
    as_good = (largest[None] >= np.asarray(effects)[:, None]).sum(1)
    return np.asarray((1 + as_good) / (1 + len(largest)))


def calibration(null: list[np.ndarray]) -> tuple[int, int, int, int]:
    """Return, taking each deal for the data and the others for its null: features, those called real, deals, deals with any."""
    called = [null_p(one, null[:i] + null[i + 1 :]) <= LEVEL for i, one in enumerate(null)]
    return sum(map(len, called)), int(sum(c.sum() for c in called)), len(null), int(sum(c.any() for c in called))


def verdicts(features: pd.DataFrame, *, stable: float) -> pd.Series:
    """Return each feature's verdict, one of VERDICTS.

    Parameters
    ----------
    features : columns activation, activation_floor, effect, effect_floor, null_p, stability
    stable : share of refits that counts as stable
    """
    floors = (features["activation"] > features["activation_floor"]).astype(int)
    floors += (features["effect"] > features["effect_floor"]).astype(int)
    kept = features["stability"] >= stable
    beyond = features["null_p"] <= LEVEL
    names = np.select([~beyond, (floors == 2) & kept, floors == 2, floors == 1], [VERDICTS[4], *VERDICTS[:3]], VERDICTS[3])
    return pd.Series(names, index=features.index, name="verdict")
