"""Proximal gradient for objectives that run through the model: exact zeros, monotone, with a stopping criterion.

SpaRSA (Wright, Nowak and Figueiredo 2009) in its monotone form: the step size is Barzilai and Borwein's guess of the
curvature, halved until the full objective falls. One gradient a step when the guess is good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ValueAndGradient = Callable[[np.ndarray], tuple[float, np.ndarray]]
SUFFICIENT = 1e-4
MAX_HALVINGS = 25


@dataclass(frozen=True)
class ProximalFit:
    """A solution.

    Attributes
    ----------
    lam : weight of the penalty
    theta : float64 (F,), exact zeros
    loss, objective : without and with the penalty
    prox_gradient : norm of the prox-gradient map at unit step, theta - prox(theta - grad); 0 exactly at an optimum
    step : last step size, for a warm start
    n_steps, n_gradients : steps taken, gradients computed
    gradient : float64 (F,), of the smooth part at theta
    converged : whether the tolerance was met before the steps ran out
    history : objective at the start and after each step
    """

    lam: float
    theta: np.ndarray
    loss: float
    objective: float
    prox_gradient: float
    step: float
    n_steps: int
    n_gradients: int
    converged: bool
    history: tuple[float, ...]
    gradient: np.ndarray


def soft_threshold(x: np.ndarray, threshold: float) -> np.ndarray:
    """Return the proximal map of threshold * ||x||_1."""
    return np.asarray(np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0))


def solve(
    value_and_gradient: ValueAndGradient,
    start: np.ndarray,
    lam: float,
    *,
    learnable: np.ndarray,
    step: float,
    tolerance: float,
    max_steps: int,
    known: tuple[float, np.ndarray] | None = None,
) -> ProximalFit:
    """Minimise a smooth function plus lam ||theta||_1 over the learnable coordinates.

    Parameters
    ----------
    start : (F,) where to begin, a neighbour's solution for a warm start
    learnable : bool (F,); the others stay 0
    step : first step size to try
    tolerance : stop when the norm of the prox-gradient map is at most this
    known : the smooth part's value and gradient at `start`, where it is known
    """
    theta = np.where(learnable, start, 0.0).astype(np.float64)
    loss, gradient = value_and_gradient(theta) if known is None else known
    n_gradients, n_steps = int(known is None), 0
    objective = loss + lam * float(np.abs(theta).sum())
    history = [objective]
    norm = prox_gradient_norm(theta, gradient, lam, learnable)
    while norm > tolerance and n_steps < max_steps:
        for _ in range(MAX_HALVINGS):
            new = np.where(learnable, soft_threshold(theta - step * gradient, step * lam), 0.0)
            move = new - theta
            new_loss, new_gradient = value_and_gradient(new)
            n_gradients += 1
            new_objective = new_loss + lam * float(np.abs(new).sum())
            if new_objective <= objective - SUFFICIENT / (2 * step) * float(move @ move):
                break
            step /= 2
        else:
            break  # no step helps any more: the function's own rounding
        curvature = float(move @ (new_gradient - gradient))
        square = float(move @ move)
        theta, loss, gradient, objective = new, new_loss, new_gradient, new_objective
        # a non-convex stretch gives no curvature: be bold, the halving will mend it
        step = min(square / curvature, 10 * step) if curvature > 0 else 4 * step
        norm = prox_gradient_norm(theta, gradient, lam, learnable)
        history.append(objective)
        n_steps += 1
    converged = norm <= tolerance
    return ProximalFit(lam, theta, loss, objective, norm, step, n_steps, n_gradients, converged, tuple(history), gradient)


def prox_gradient_norm(theta: np.ndarray, gradient: np.ndarray, lam: float, learnable: np.ndarray) -> float:
    """Return ||theta - prox(theta - gradient)||: how far the optimality conditions are from holding."""
    return float(np.linalg.norm((theta - soft_threshold(theta - gradient, lam))[learnable]))
