"""A recipe's shift as a sparse non-negative combination of perturbations' shifts, beside random recipes and other candidates.

    minimise over a >= 0   || t - sum_p a_p D_p ||^2 + lambda sum_p a_p

t is the recipe's mean shift of the pooled embedding, D_p the mean shift under perturbation p: the exact lasso of
steering.lasso. Coefficients and the explained share are those of least squares on its support, free of the penalty's shrinkage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...evaluate.population import permutation_p
from ...steering.lasso import LatentProblem
from .perturb import KINDS, Perturbation

LEVEL = 0.05


class Combination(NamedTuple):
    """Coefficients float64 (P,), and the share of the squared shift that they explain."""

    coefficients: np.ndarray
    explained: float


@dataclass(frozen=True)
class Rules:
    """How the combination is found: the penalty's share of lambda_max, half-samples, and when a perturbation is named."""

    ratio: float = 0.1
    n_refits: int = 100
    stable: float = 0.6
    n_named: int = 5
    seed: int = 0


def combine(D: np.ndarray, target: np.ndarray, ratio: float) -> Combination:
    """Return the combination of perturbations (P, width) that explains a shift (width,)."""
    none = np.zeros(len(D))
    total = float(target @ target)
    if not total or not len(D):
        return Combination(none, 0.0)
    problem = LatentProblem(np.ones((1, len(D))), D, np.zeros((1, D.shape[1])), target, bounds=(0.0, None))
    if problem.lam_max <= 0:
        return Combination(none, 0.0)
    found = problem.refit(problem.solve(ratio * problem.lam_max).theta)
    return Combination(found, 1 - problem.loss(found) / total)


def stability(D: np.ndarray, moved: np.ndarray, rules: Rules) -> np.ndarray:
    """Return the share of half-samples of the cells in whose combination each perturbation is, float64 (P,).

    Parameters
    ----------
    D : (P, n, width), every cell's shift under each perturbation; moved : (n, width), under the recipe
    """
    rng, n = np.random.default_rng([rules.seed, 81]), moved.shape[0]
    count = np.zeros(len(D))
    for _ in range(rules.n_refits):
        half = rng.permutation(n)[: max(1, n // 2)]
        count += combine(D[:, half].mean(1), moved[half].mean(0), rules.ratio).coefficients > 0
    return count / rules.n_refits


def explain(
    some: Sequence[Perturbation], D: np.ndarray, moved: np.ndarray, random: np.ndarray, rules: Rules
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return a row a perturbation, and what the combination comes to.

    Parameters
    ----------
    D : (P, n, width); moved : (n, width), see stability
    random : (R, width), mean shifts of random recipes of the recipe's norm

    Returns
    -------
    DataFrame
        column, kind, effect (norm of the mean shift), cosine (with the recipe's), coefficient, explains (share of the shift
        that it alone explains), stability, p (random recipes with as large a coefficient), named
    dict
        explained, its null (random_mean, random_hi), p; and dealt_mean, dealt_p of as many perturbations dealt anew
    """
    mean, target = D.mean(1), moved.mean(0)
    norm, length = np.linalg.norm(mean, axis=1), float(np.linalg.norm(target))
    found = combine(mean, target, rules.ratio)
    null = [combine(mean, one, rules.ratio) for one in random]
    above = sum((one.coefficients >= found.coefficients).astype(int) for one in null) + np.zeros(len(mean))
    cosine = mean @ target / np.maximum(norm * length, 1e-300)
    table = pd.DataFrame(
        {
            "column": [one.column for one in some],
            "kind": [KINDS[one.kind] for one in some],
            "effect": norm,
            "cosine": cosine,
            "coefficient": found.coefficients,
            "explains": np.maximum(cosine, 0) ** 2,
            "stability": stability(D, moved, rules),
            "p": np.where(found.coefficients > 0, (1 + above) / (1 + len(null)), 1.0),
        }
    )
    table["pull"] = table["coefficient"] * norm
    table = table.sort_values(["stability", "pull"], ascending=False, kind="stable")
    good = (table["stability"] >= rules.stable) & (table["p"] <= LEVEL) & ~table["column"].duplicated()
    table["named"] = good & (good.cumsum() <= rules.n_named)
    against = permutation_p(found.explained, np.array([one.explained for one in null]), "higher")
    return table, {
        "explained": found.explained,
        "random_mean": against.mean,
        "random_hi": against.hi,
        "p": against.p,
        **_dealt(mean, target, found, rules),
    }


def _dealt(mean: np.ndarray, target: np.ndarray, found: Combination, rules: Rules, n: int = 200) -> dict[str, float]:
    """The share that as many candidates dealt anew explain by least squares: the chosen ones fit, so they must beat all."""
    rng, size = np.random.default_rng([rules.seed, 82]), int((found.coefficients > 0).sum())
    if not size:
        return {"dealt_mean": np.nan, "dealt_p": np.nan}
    draws = [combine(mean[rng.choice(len(mean), size, replace=False)], target, 1e-6).explained for _ in range(n)]
    against = permutation_p(found.explained, np.array(draws), "higher")
    return {"dealt_mean": against.mean, "dealt_p": against.p}
