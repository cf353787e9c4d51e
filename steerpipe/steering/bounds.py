"""The interval that every theta_f is kept in; -1 <= theta_f, that is alpha_f >= 0, lets a code be silenced, not inverted."""

from __future__ import annotations

import numpy as np

from ..errors import SteerError

Bounds = tuple[float | None, float | None]
"""Lowest and highest theta_f; None is no bound."""


def limits(bounds: Bounds) -> tuple[float, float]:
    """Return the bounds as numbers, infinite where there is none.

    Raises
    ------
    SteerError
        unless lo <= 0 <= hi and lo < hi: theta = 0, no change, must be allowed
    """
    lo, hi = (-np.inf if bounds[0] is None else float(bounds[0])), (np.inf if bounds[1] is None else float(bounds[1]))
    if not lo <= 0 <= hi or lo == hi:
        raise SteerError(f"bounds [{bounds[0]}, {bounds[1]}] of theta must have lo <= 0 <= hi and lo < hi; null is no bound.")
    return lo, hi
