"""Which features could stand in for those of a recipe: a recipe is exact, but correlated features share the credit.

A feature is left out, the rest is solved anew, and the rise of the objective tells whether the recipe needs it: where it is
at most a tolerance, the recipe without it is as good (a Rashomon set: Breiman 2001; Fisher, Rudin and Dominici 2019). What
takes its place is its stand-in, and is then left out as well, until the rise is above the tolerance: one refit names but one
of several copies.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..evaluate.recruitment import recruited
from .lasso import LassoFit, LatentProblem

SHARE, DEPTH = 0.25, 8


def stand_ins(
    problem: LatentProblem, fit: LassoFit, *, tolerance: float = 0.01, correlation: float = 0.9, share: float = SHARE
) -> pd.DataFrame:
    """Return what could take the place of each recruited feature, and the groups that follow from it.

    Cost: one warm-started exact refit a recruited feature, and one more a stand-in that the recipe lacks, up to `DEPTH`.

    Parameters
    ----------
    problem, fit : the latent problem and its solution
    tolerance : the rise of the objective, relative, up to which a feature is replaceable
    correlation : absolute cosine of two columns from which features are called correlated
    share : the least share of a feature's own shift that a stand-in takes over

    Returns
    -------
    DataFrame
        a row a recruited feature, strongest first:
        feature, theta;
        group, int: the connected components of recruited features and their stand-ins, numbered in the order of the rows;
        correlated, list of int: learnable features with such a column;
        without, float: relative rise of the objective without the feature;
        replaceable, bool: whether it is at most the tolerance;
        stand_ins, list of int: where replaceable, the features whose change in a refit within the tolerance brings at
        least `share` of the shift that was lost, in the order of the refits
    """
    on = recruited(fit.theta)
    rows, families = [], []
    for feature, cosine in zip(on, problem.cosines(on), strict=True):
        near = np.flatnonzero(np.abs(cosine) >= correlation)
        rise, found = _peel(problem, fit, int(feature), cosine, tolerance, share)
        families.append({int(feature), *found})
        rows.append(
            {
                "feature": int(feature),
                "theta": float(fit.theta[feature]),
                "correlated": [int(other) for other in near if other != feature],
                "without": rise,
                "replaceable": rise <= tolerance,
                "stand_ins": found,
            }
        )
    columns = ["feature", "theta", "correlated", "without", "replaceable", "stand_ins"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(2, "group", _components(families))
    return table


def _peel(
    problem: LatentProblem, fit: LassoFit, feature: int, cosine: np.ndarray, tolerance: float, share: float
) -> tuple[float, list[int]]:
    """Return the rise without a feature, and what takes its place in turn as those that did are left out too."""
    size = np.sqrt(problem.diagonal)
    out, found, theta = [feature], [], fit.theta
    first = np.inf
    for _ in range(DEPTH):
        refit = problem.solve(fit.lam, theta, without=out)
        rise, theta = refit.objective / fit.objective - 1, refit.theta
        first = min(first, rise)  # the first, as leaving out more never falls
        if rise > tolerance:
            break
        # <x_g change_g, x_f theta_f> / ||x_f theta_f||^2: the part of the lost shift that g brings
        taken = (theta - fit.theta) * size * cosine / (size[feature] * fit.theta[feature])
        taken[out] = 0.0
        takers = [int(f) for f in np.argsort(-taken) if taken[f] >= share]
        found += [f for f in takers if f not in found]
        new = [f for f in takers if fit.theta[f] == 0]
        if not new:
            break
        out.append(new[0])
    return float(first), found


def _components(sets: list[set[int]]) -> list[int]:
    """Number sets by the connected component that they are in: those that share a member are of one."""
    group = list(range(len(sets)))
    for i, one in enumerate(sets):
        for j in range(i):
            if one & sets[j] and group[i] != group[j]:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    order = {g: k for k, g in enumerate(dict.fromkeys(group))}
    return [order[g] for g in group]
