"""Classifiers that say what a cell looks like: the probe that knows source from target, and the C2ST's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from .energy import checked, same_width

FOLDS = 5
STRENGTHS = tuple(10.0**power for power in range(-4, 2))
"""Inverse L2 strengths that the probe chooses from."""
C2ST_STRENGTH = 0.1
NEWTON_STEPS, NEWTON_TOLERANCE = 25, 1e-6
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Probe:
    """A logistic regression that tells target from source cells; made by `fit_probe`.

    Attributes
    ----------
    coef : (D,) float64, of the points as they are
    intercept : of the same
    strength : inverse L2 strength that cross-validation chose
    """

    coef: np.ndarray
    intercept: float
    strength: float

    def p_target(self, points: np.ndarray) -> np.ndarray:
        """Probability that each cell (n, D) is a target cell, both classes being as frequent, float64 (n,)."""
        return np.asarray(expit(np.asarray(points, np.float64) @ self.coef + self.intercept))


def fit_probe(source_fit: np.ndarray, target_fit: np.ndarray, seed: int = 0) -> Probe:
    """Fit an L2 logistic regression on standardised dimensions, its strength by cross-validated log loss.

    Both classes weigh the same, in the fit and in the loss: the answer of scikit-learn's LogisticRegressionCV.

    Parameters
    ----------
    source_fit, target_fit : (n, D) and (m, D) cells, none of which is scored later
    seed : deals the cells to 5 stratified folds, or as many as the smaller class has cells

    Raises
    ------
    SteerError : a class has fewer than 2 cells, a value is not finite, or the dimensions differ
    """
    source, target = checked("the probe's source cells", source_fit), checked("the probe's target cells", target_fit)
    same_width(source, target)
    labels = np.repeat([0, 1], [len(source), len(target)])
    scaler = StandardScaler()
    scaled = scaler.fit_transform(np.vstack([source, target]))
    basis = _basis(scaled)
    points = scaled @ basis
    folds = StratifiedKFold(min(FOLDS, len(source), len(target)), shuffle=True, random_state=seed)
    splits = list(folds.split(points, labels))
    weights = np.stack([_balanced(labels, fit) for fit, _ in splits])
    losses = []
    for strength in STRENGTHS:
        coef, intercept = logistic(points, labels, weights, strength)
        z = points @ coef.T + intercept
        losses.append(np.mean([_log_loss(labels, z[:, k], held_out) for k, (_, held_out) in enumerate(splits)]))
    best = STRENGTHS[int(np.argmin(losses))]
    every = _balanced(labels, np.arange(len(labels)))[None]
    coef, intercept = logistic(points, labels, every, best)
    outer = basis @ coef[0] / scaler.scale_
    return Probe(outer, float(intercept[0] - scaler.mean_ @ outer), float(best))


def _balanced(labels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Weights (n,) under which both classes weigh the same among some cells; 0 for the others."""
    weights = np.zeros(len(labels))
    weights[cells] = compute_sample_weight("balanced", labels[cells])
    return weights


def _log_loss(labels: np.ndarray, z: np.ndarray, cells: np.ndarray) -> float:
    """Log loss of decision values z (n,) on some cells, both classes weighing the same."""
    weights = compute_sample_weight("balanced", labels[cells])
    return float(np.average(np.logaddexp(0.0, np.where(labels[cells] == 1, -z[cells], z[cells])), weights=weights))


def _basis(scaled: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the rows (n, D): L2 fits are the same in them, and faster where D > n."""
    n, width = scaled.shape
    if width <= n:
        return np.eye(width)
    squares, vectors = np.linalg.eigh(scaled @ scaled.T)
    kept = squares > TINY * squares[-1]
    return np.asarray(scaled.T @ vectors[:, kept] / np.sqrt(squares[kept]))


def c2st_scores(steered: np.ndarray, target: np.ndarray, seed: int) -> np.ndarray:
    """Out-of-fold decision values of the steered, then of the target cells, (n + m,): higher is steered.

    Standardisation sees every cell but no label, so that the rotation is made once for all folds.
    """
    points = StandardScaler().fit_transform(np.vstack([steered, target]))
    points = points @ _basis(points) if points.shape[1] > len(points) else points
    labels = np.repeat([1, 0], [len(steered), len(target)])
    folds = StratifiedKFold(min(FOLDS, len(steered), len(target)), shuffle=True, random_state=seed)
    splits = list(folds.split(points, labels))
    fits = np.zeros((len(splits), len(labels)))
    for number, (fit, _) in enumerate(splits):
        fits[number, fit] = 1.0
    coef, intercept = logistic(points, labels, fits, C2ST_STRENGTH)
    out = np.zeros(len(labels))
    for number, (_, held_out) in enumerate(splits):
        out[held_out] = points[held_out] @ coef[number] + intercept[number]
    return out


def logistic(points: np.ndarray, labels: np.ndarray, weights: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit L2 logistic regressions of the same cells under several weights, by Newton's method, all at once.

    The optimum is that of scikit-learn's LogisticRegression(C=strength) with sample weights, which takes 20 times as long on
    a few dozen cells: minimise sum_i w_i log loss_i + ||coef||^2 / (2 C), the intercept unpenalised.

    Parameters
    ----------
    points : float64 (n, D)
    labels : (n,) of 0 and 1
    weights : float64 (K, n), one row a fit

    Returns
    -------
    coef (K, D), intercept (K,)
    """
    design = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    penalty = np.full(design.shape[1], 1 / strength)
    penalty[-1] = 1e-10
    beta = np.zeros((len(weights), design.shape[1]))
    for _ in range(NEWTON_STEPS):
        p = expit(beta @ design.T)
        slope = (weights * (p - labels)) @ design + penalty * beta
        if np.abs(slope).max() < NEWTON_TOLERANCE:
            break
        for k, curvature in enumerate(weights * p * (1 - p)):
            hessian = (design * curvature[:, None]).T @ design
            hessian[np.diag_indices_from(hessian)] += penalty
            beta[k] -= np.linalg.solve(hessian, slope[k])
    return beta[:, :-1], beta[:, -1]
