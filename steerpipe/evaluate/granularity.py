"""How much of a target few features reach: units of steering, how specific they are, and whether their curve has a step.

A unit is one feature, a group of features under one common theta, or the first n features of the exact path, refitted by
least squares. What each closes of the gap is read on cells that the fit never saw, as a share of what the dense mean
difference closes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from ..steering.lasso import LatentProblem
from .floors import matched_features

PATH_END, N_PATH = 1e-3, 60
POWERS = (0.25, 0.5, 0.75, 1.0)
STEADY = 4.0
NEAREST = 20
"""Features of most like activity from which a random group's member is drawn."""
SMALLEST_WAY = 0.1
"""A way to another label that keeps less of its length once it is orthogonalised to the target's is no direction of its own."""
TINY = 1e-12


def steady(zbar: np.ndarray) -> np.ndarray:
    """Return bool (F,): features whose mean code over cells (n, F) is at least STEADY of its standard errors from 0.

    What a theta does is in proportion to that mean. A feature that is all but silent in the fit's cells can be given any shift
    by a theta of thousands, and does something else in every other draw of cells: it is no unit.
    """
    error = zbar.std(0, ddof=1) / np.sqrt(len(zbar))
    return np.asarray(np.abs(zbar.mean(0)) > STEADY * error)


def ranking(problem: LatentProblem) -> np.ndarray:
    """Return the features of the exact path, int64 (k,), in the order in which they enter it, the larger effect first."""
    fits = problem.path(np.geomspace(1, PATH_END, N_PATH) * problem.lam_max)
    thetas = np.stack([fit.theta for fit in fits])
    on = np.flatnonzero((thetas != 0).any(0))
    entry = (thetas[:, on] != 0).argmax(0)
    size = np.abs(thetas[entry, on]) * np.sqrt(problem.diagonal[on])
    return np.asarray(on[np.lexsort([-size, entry])])


def first_features(problem: LatentProblem, order: np.ndarray, n: int) -> np.ndarray:
    """Return the least-squares theta (F,) of the first n features of an order."""
    support = np.zeros(len(problem.W))
    support[order[:n]] = 1.0
    return problem.refit(support)


def best_group(problem: LatentProblem, groups: Sequence[np.ndarray]) -> tuple[int, np.ndarray]:
    """Return the group of features that lowers the loss most under one common theta, and that theta (F,).

    Of a group whose codes add x = sum_f zbar_f W_f to each embedding, theta = <x, mu - e> / <x, x>, within the bounds.
    """
    lo, hi = problem.bounds
    best, number, theta = -1.0, 0, np.zeros(len(problem.W))
    for i, group in enumerate(groups):
        some = group[problem.free[group]]
        x = problem.z[:, some] @ problem.W[some]
        square, inner = float((x * x).sum()), float((x * problem.gap_vectors).sum())
        value = float(np.clip(inner / max(square, 1e-300), lo, hi))
        gain = value * (2 * inner - value * square)
        if gain > best:
            best, number = gain, i
            theta = np.zeros(len(problem.W))
            theta[some] = value
    return number, theta


def best_feature(problem: LatentProblem) -> np.ndarray:
    """Return the theta (F,) of the one feature that lowers the loss most, within the bounds."""
    theta = np.where(problem.free, np.clip(problem.b / np.maximum(problem.diagonal, 1e-300), *problem.bounds), 0.0)
    best = int((theta * (2 * problem.b - theta * problem.diagonal)).argmax())
    return np.where(np.arange(len(theta)) == best, theta, 0.0)


def members_of(labels: np.ndarray) -> list[np.ndarray]:
    """Return the features of each module or component, from its label (F,); -1 is outside of all."""
    return [np.flatnonzero(labels == number) for number in range(int(labels.max(initial=-1)) + 1)]


def random_groups(
    groups: Sequence[np.ndarray], activity: np.ndarray, candidates: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return as many groups of the same sizes, each member replaced by a random feature of like activity.

    Parameters
    ----------
    activity : (F,) mean |z|
    candidates : bool (F,), features to draw from; no feature is twice in a group
    """
    out = []
    for group in groups:
        free, drawn = candidates.copy(), []
        for feature in group[candidates[group]]:
            near = matched_features(int(feature), activity, free, NEAREST)
            if not len(near):
                break
            drawn.append(int(rng.choice(near)))
            free[drawn[-1]] = False
        out.append(np.array(drawn, np.int64))
    return out


def gap_closed(shift: np.ndarray, way: np.ndarray) -> float:
    """Return the part of a way (D,) between two means that a mean shift (D,) goes: 0 nothing, 1 arrived."""
    return float(shift @ way / max(float(way @ way), TINY))


def off_target(shift: np.ndarray, way: np.ndarray, others: np.ndarray) -> float:
    """Return how far a mean shift (D,) goes along the ways to other labels (n, D), orthogonalised to the target's way (D,).

    Mean over labels of |shift . d| / |d|^2: 1 would be arrival at all of them. NaN where no label has a way of its own.
    """
    d = others - np.outer(others @ way, way) / max(float(way @ way), TINY)
    own = np.linalg.norm(d, axis=1) > SMALLEST_WAY * np.linalg.norm(others, axis=1)
    d = d[own]
    return float(np.abs(d @ shift / (d * d).sum(1)).mean()) if len(d) else float("nan")


def n_for_half(n: np.ndarray, gap: np.ndarray, dense: float) -> float:
    """Return the features that close half of the dense vector's gap, between two sizes by log2 n; inf where none does."""
    reached = np.flatnonzero(gap >= dense / 2)
    if not len(reached) or dense <= 0:
        return float("inf")
    i = int(reached[0])
    if i == 0:
        return float(n[0])
    at = np.interp(dense / 2, gap[[i - 1, i]], np.log2(n[[i - 1, i]]))
    return float(2**at)


class CurveFit(NamedTuple):
    """A step and a smooth curve through one target's points.

    Attributes
    ----------
    step, smooth : root mean squared error on points left out in turn
    at : features at which the step's rise ends
    """

    step: float
    smooth: float
    at: float


def curve_fit(n: np.ndarray, share: np.ndarray) -> CurveFit:
    """Fit c min(n/s, 1)^h, which ends at a kink, and c (1 - exp(-(n/s)^h)), which does not, to a curve.

    Both have the same three parameters, h of POWERS, so that neither is the more flexible; each point is left out in turn.

    Parameters
    ----------
    n : numbers of features, ascending; share : of the dense vector's gap, as many
    """
    scales = np.geomspace(n[0] / 4, 4 * n[-1], 97)
    scales = np.unique(np.concatenate([scales, n.astype(float)]))
    u = (n / scales[:, None])[None] ** np.array(POWERS)[:, None, None]
    shapes = {"step": np.minimum(u, 1.0).reshape(-1, len(n)), "smooth": (1 - np.exp(-u)).reshape(-1, len(n))}
    errors = {}
    for name, shape in shapes.items():
        left_out = [share[i] - _predicted(shape, share, np.arange(len(n)) != i)[i] for i in range(len(n))]
        errors[name] = float(np.sqrt(np.square(left_out).mean()))
    whole = _best(shapes["step"], share, np.ones(len(n), bool))
    return CurveFit(errors["step"], errors["smooth"], float(np.tile(scales, len(POWERS))[whole]))


def _best(shape: np.ndarray, y: np.ndarray, kept: np.ndarray) -> int:
    a, b = shape[:, kept], y[kept]
    scale = (a @ b) / np.maximum((a * a).sum(1), TINY)
    return int(np.square(b - scale[:, None] * a).sum(1).argmin())


def _predicted(shape: np.ndarray, y: np.ndarray, kept: np.ndarray) -> np.ndarray:
    one = shape[_best(shape, y, kept)]
    return np.asarray(one * float(one[kept] @ y[kept]) / max(float(one[kept] @ one[kept]), TINY))


def compare_curves(step: np.ndarray, smooth: np.ndarray) -> float:
    """Return the two-sided p of a signed-rank test of two curves' errors, a pair a target; NaN for fewer than 5 targets."""
    difference = np.asarray(step) - np.asarray(smooth)
    if len(difference) < 5 or not np.abs(difference).max() > TINY:
        return float("nan")
    return float(wilcoxon(difference).pvalue)
