"""The way down a ladder of weights through a model: each rung starts from the one above, so that the last is cheap.

The first rung is lambda_max, where theta = 0 is optimal; the others lie a factor NODE_RATIO apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .bounds import Bounds
from .objectives import Objective
from .proximal import ProximalFit, prox_gradient_norm, solve

NODE_RATIO = 3.0


def top(value: float, gradient: np.ndarray, bounds: Bounds = (None, None)) -> ProximalFit:
    """Return the rung at lambda_max, from value and gradient (F,) at theta = 0 (0 on features that may not move).

    With bounds only a pull towards an allowed side counts.
    """
    low, high = bounds
    pull = np.where(gradient > 0, gradient if low is None or low < 0 else 0.0, -gradient if high is None or high > 0 else 0.0)
    largest = float(pull.max(initial=0.0))
    step = 0.5 / largest if largest > 0 else 1.0
    none = np.empty((0, len(gradient)))
    return ProximalFit(largest, np.zeros(len(gradient)), value, value, 0.0, step, 0, 1, True, (value,), gradient, none, none)


def rung(
    objective: Objective,
    lam: float,
    above: ProximalFit,
    *,
    slope: np.ndarray,
    learnable: np.ndarray,
    tolerance: float,
    max_steps: int,
    bounds: Bounds = (None, None),
) -> ProximalFit:
    """Return the solution at one weight, starting from the rung above.

    Parameters
    ----------
    slope : (F,) gradient at theta = 0: `tolerance` is a share of its prox-gradient norm
    learnable : bool (F,), features that may move
    """
    zero = np.zeros_like(slope)
    scale = prox_gradient_norm(zero, slope, lam, learnable, bounds=bounds)
    return solve(
        objective.value_and_gradient,
        above.theta,
        lam,
        learnable=learnable,
        step=above.step,
        tolerance=tolerance * scale,
        max_steps=max_steps,
        known=(above.loss, above.gradient),
        memory=(above.moves, above.slopes),
        bounds=bounds,
    )


def descend(
    objective: Objective, weight: Callable[[float], float], learnable: np.ndarray, *, direct: bool = False, **options: Any
) -> list[ProximalFit]:
    """Go down the ladder from theta = 0 to one weight; its last rung is the solution there.

    Parameters
    ----------
    weight : lambda_max -> the weight to end at
    direct : leave the rungs between out: half of the gradients, an end that is hardly worse
    options : tolerance, max_steps and bounds, see `rung`
    """
    value, gradient = objective.value_and_gradient(np.zeros(len(learnable)))
    gradient = np.where(learnable, gradient, 0.0)
    rungs = [top(value, gradient, options.get("bounds", (None, None)))]
    goal = weight(rungs[0].lam)
    while rungs[-1].lam > goal:
        lam = goal if direct else max(goal, rungs[-1].lam / NODE_RATIO)
        rungs.append(rung(objective, lam, rungs[-1], slope=gradient, learnable=learnable, **options))
    return rungs
