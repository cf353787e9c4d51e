"""Proximal quasi-Newton for objectives that run through the model: exact zeros, monotone, with a stopping criterion.

Each step minimises a quadratic model of the smooth part plus the penalty, exactly, by coordinate descent on the features that
move or are about to, and is halved until the full objective falls (Lee, Sun and Saunders 2014). The model's curvature is that
of limited-memory BFGS (Byrd, Nocedal and Schnabel 1994), which the next smaller lambda inherits: the smooth part is the same.
A gradient through a foundation model costs a million times what this algebra does, so what counts is their number. A part of
the function that is known in closed form is therefore taken as it is, and curvature is learnt of the rest alone: a stiff limit
would otherwise be all that the memory holds, and every step would be halved at it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bounds import Bounds, limits
from .descent import descend

ValueAndGradient = Callable[[np.ndarray], tuple[float, np.ndarray]]
SUFFICIENT = 1e-4
MAX_HALVINGS = 25
MEMORY = 10
AHEAD, WORKING = 0.8, 64
SWEEPS = 500
INNER_STEPS, INNER_TOLERANCE = 50, 1e-2
ROUNDING = 1e-15


@dataclass(frozen=True)
class ProximalFit:
    """A solution.

    Attributes
    ----------
    lam : weight of the penalty
    theta : float64 (F,), exact zeros
    loss, objective : without and with the penalty
    prox_gradient : norm of the prox-gradient map at unit step, theta - prox(theta - grad); 0 exactly at an optimum
    step : inverse of the curvature before any is known
    moves, slopes : float64 (m, F), the last moves and the changes of the gradient along them, for a warm start
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
    moves: np.ndarray
    slopes: np.ndarray


def soft_threshold(x: np.ndarray, threshold: float) -> np.ndarray:
    """Return the proximal map of threshold * ||x||_1."""
    return np.asarray(np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0))


def prox(x: np.ndarray, threshold: float, bounds: Bounds = (None, None)) -> np.ndarray:
    """Return the proximal map of threshold * ||x||_1 within bounds around 0: the soft threshold, clipped."""
    return np.asarray(np.clip(soft_threshold(x, threshold), *limits(bounds)))


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
    memory: tuple[np.ndarray, np.ndarray] | None = None,
    bounds: Bounds = (None, None),
    cheap: ValueAndGradient | None = None,
) -> ProximalFit:
    """Minimise a smooth function plus lam ||theta||_1 over the learnable coordinates, within bounds.

    Parameters
    ----------
    start : (F,) where to begin, a neighbour's solution for a warm start
    learnable : bool (F,); the others stay 0
    step : inverse of the curvature to assume before any is known
    tolerance : stop when the norm of the prox-gradient map is at most this
    known : the smooth part's value and gradient at `start`, where it is known; not used where the bounds do not hold there
    memory : moves and slopes of the same function, from another weight
    bounds : lowest and highest theta_f, None where there is none
    cheap : a convex part of the function, in it, that costs next to nothing: no step models it, all minimise it as it is
    """
    given = np.where(learnable, start, 0.0).astype(np.float64)
    theta = np.clip(given, *limits(bounds))
    known = known if np.array_equal(theta, given) else None
    loss, gradient = value_and_gradient(theta) if known is None else known
    n_gradients, n_steps = int(known is None), 0
    penalty = lam * float(np.abs(theta).sum())
    history = [loss + penalty]
    moves, slopes = (list(pairs) for pairs in memory) if memory is not None else ([], [])
    norm = prox_gradient_norm(theta, gradient, lam, learnable, bounds=bounds)
    known_value, known_gradient = (0.0, np.zeros_like(theta)) if cheap is None else cheap(theta)
    while norm > tolerance and n_steps < max_steps:
        rest = gradient - known_gradient
        if cheap is None:
            goal = _newton_point(theta, gradient, lam, learnable, moves, slopes, step, bounds)
        else:
            goal = _composite_point(theta, rest, lam, learnable, moves, slopes, step, bounds, cheap)
        direction = goal - theta
        promised = float(rest @ direction) + lam * float(np.abs(goal).sum()) - penalty
        promised += 0.0 if cheap is None else cheap(goal)[0] - known_value
        if promised > ROUNDING * abs(loss + penalty):  # the curvature misleads: forget it
            if not moves:
                break
            moves, slopes = [], []
            continue
        length = 1.0
        for _ in range(MAX_HALVINGS):
            new = theta + length * direction if length < 1 else goal
            new_loss, new_gradient = value_and_gradient(new)
            n_gradients += 1
            new_penalty = lam * float(np.abs(new).sum())
            if new_loss + new_penalty <= (loss + penalty) * (1 + ROUNDING) + SUFFICIENT * length * min(promised, 0.0):
                break
            length /= 2
        else:
            break  # no step helps any more: the function's own rounding
        of_known = known_gradient
        if cheap is not None:
            known_value, known_gradient = cheap(new)
        change = new_gradient - known_gradient - (gradient - of_known)
        move, slope = new - theta, np.where(learnable, change, 0.0)
        curvature = float(move @ slope)
        if curvature > 1e-10 * float(move @ move):  # a stretch that is not convex teaches nothing
            moves, slopes = [*moves, move][-MEMORY:], [*slopes, slope][-MEMORY:]
        elif not moves:
            step *= 4
        theta, loss, gradient, penalty = new, new_loss, new_gradient, new_penalty
        norm = prox_gradient_norm(theta, gradient, lam, learnable, bounds=bounds)
        history.append(loss + penalty)
        n_steps += 1
    pairs = (np.array(kept).reshape(-1, len(theta)) for kept in (moves, slopes))
    ends = norm, step, n_steps, n_gradients, norm <= tolerance, tuple(history), gradient
    return ProximalFit(lam, theta, loss, loss + penalty, *ends, *pairs)


def _newton_point(
    theta: np.ndarray,
    gradient: np.ndarray,
    lam: float,
    learnable: np.ndarray,
    moves: list[np.ndarray],
    slopes: list[np.ndarray],
    step: float,
    bounds: Bounds,
) -> np.ndarray:
    """Return the minimum (F,) of the quadratic model plus penalty over the support and the features that pull hardest."""
    excess = np.where(learnable & (theta == 0), np.abs(gradient) - AHEAD * lam, -np.inf)
    ahead = np.argsort(-excess, kind="stable")[:WORKING]
    working = np.union1d(np.flatnonzero(theta), ahead[excess[ahead] > 0])
    x, g = theta[working], gradient[working]
    if not moves:
        return _put(theta, working, prox(x - step * g, step * lam, bounds))
    hessian, scale = _curvature(moves, slopes, working)
    values = x.copy()
    # the model is 1/2 d' H d + g' d with d = values - x
    descend(hessian / 2, (hessian @ x - g) / 2, values, lam / 2, *limits(bounds), 1e-16 * float(g @ g) / scale, SWEEPS)
    return _put(theta, working, values)


def _composite_point(
    theta: np.ndarray,
    rest: np.ndarray,
    lam: float,
    learnable: np.ndarray,
    moves: list[np.ndarray],
    slopes: list[np.ndarray],
    step: float,
    bounds: Bounds,
    cheap: ValueAndGradient,
) -> np.ndarray:
    """Return the minimum (F,) of the rest's quadratic model plus the cheap part plus penalty, over all learnable features."""
    working = np.flatnonzero(learnable)
    hessian, scale = (np.eye(len(working)) / step, 1 / step) if not moves else _curvature(moves, slopes, working)

    def model(values: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = cheap(_put(theta, working, values))
        by = values - theta[working]
        bent = hessian @ by
        return value + float(by @ (bent / 2 + rest[working])), gradient[working] + bent + rest[working]

    here, free = theta[working], np.ones(len(working), bool)
    start = model(here)
    tolerance = INNER_TOLERANCE * prox_gradient_norm(here, start[1], lam, free, bounds=bounds)
    options: dict[str, Any] = {"step": 1 / scale, "tolerance": tolerance, "max_steps": INNER_STEPS, "bounds": bounds}
    return _put(theta, working, solve(model, here, lam, learnable=free, known=start, **options).theta)


def _curvature(moves: list[np.ndarray], slopes: list[np.ndarray], working: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the memory's Hessian (W, W) on some features, and what it is where nothing is remembered."""
    S, Y = np.array(moves), np.array(slopes)
    products = S @ Y.T
    scale = float(Y[-1] @ Y[-1]) / products[-1, -1]
    below = np.tril(products, -1)
    middle = np.block([[scale * S @ S.T, below], [below.T, -np.diag(np.diag(products))]])
    wings = np.concatenate([scale * S, Y])[:, working]
    return scale * np.eye(len(working)) - wings.T @ np.linalg.lstsq(middle, wings, rcond=None)[0], scale


def _put(theta: np.ndarray, working: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = theta.copy()
    out[working] = values
    return out


def prox_gradient_norm(
    theta: np.ndarray, gradient: np.ndarray, lam: float, learnable: np.ndarray, *, bounds: Bounds = (None, None)
) -> float:
    """Return ||theta - prox(theta - gradient)||: how far the optimality conditions are from holding."""
    return float(np.linalg.norm((theta - prox(theta - gradient, lam, bounds))[learnable]))
