"""The way down a ladder of weights through a model: each rung starts from the one above, so that the last is cheap.

The first rung is lambda_max, where theta = 0 is optimal; the others lie a factor NODE_RATIO apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
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
        cheap=getattr(objective, "cheap", None),
    )


class Ladder:
    """Solutions of one objective at decreasing lambda: a node depends on the one above it alone.

    Parameters
    ----------
    pose : makes the objective, when it is first needed
    learnable : bool (F,), features that may move
    tolerance, max_steps, bounds : see `rung`
    """

    def __init__(
        self,
        pose: Callable[[], Objective],
        learnable: np.ndarray,
        *,
        tolerance: float,
        max_steps: int,
        bounds: Bounds = (None, None),
    ) -> None:
        self._pose, self.learnable, self.bounds = pose, learnable, bounds
        self._options: dict[str, Any] = {"tolerance": tolerance, "max_steps": max_steps, "bounds": bounds}
        self._nodes: dict[int, ProximalFit] = {}

    @cached_property
    def problem(self) -> Objective:
        """The objective."""
        return self._pose()

    @cached_property
    def zero(self) -> tuple[float, np.ndarray]:
        """Loss and gradient (F,) at theta = 0, on the learnable features."""
        return self.keep_zero(self._zero)

    @property
    def lam_max(self) -> float:
        """The smallest weight at which theta = 0 is optimal (to first order)."""
        return self.node(0).lam

    def node(self, number: int) -> ProximalFit:
        """Return the solution at lam_max / NODE_RATIO^number, solving it and those above it when they are missing."""
        if number == 0:
            return top(*self.zero, self.bounds)
        if number not in self._nodes:
            lam = self.lam_max * NODE_RATIO**-number
            self._nodes[number] = self.keep(number, lambda: self._rung(lam, self.node(number - 1)))
        return self._nodes[number]

    def solve(self, lam: float, *, direct: bool = False) -> list[ProximalFit]:
        """Return the nodes above `lam` and, last, the solution at `lam` itself.

        Parameters
        ----------
        direct : leave the nodes between out: half of the gradients, an end that is hardly worse
        """
        nodes = [self.node(0)]
        while not direct and self.lam_max * NODE_RATIO ** -len(nodes) > lam:
            nodes.append(self.node(len(nodes)))
        return [*nodes, self._rung(lam, nodes[-1])]

    def refit(self, fit: ProximalFit) -> ProximalFit:
        """Return the fit without penalty on the support of another."""
        return self._rung(0.0, fit, fit.theta != 0)

    def keep_zero(self, compute: Callable[[], tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
        """Return what `zero` is; a ladder that is stored looks there first."""
        return compute()

    def keep(self, number: int, compute: Callable[[], ProximalFit]) -> ProximalFit:
        """Return a node; a ladder that is stored looks there first."""
        return compute()

    def _zero(self) -> tuple[float, np.ndarray]:
        loss, gradient = self.problem.value_and_gradient(np.zeros(len(self.learnable)))
        return loss, np.where(self.learnable, gradient, 0.0)

    def _rung(self, lam: float, above: ProximalFit, learnable: np.ndarray | None = None) -> ProximalFit:
        free = self.learnable if learnable is None else learnable
        return rung(self.problem, lam, above, slope=self.zero[1], learnable=free, **self._options)
