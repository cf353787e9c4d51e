"""Which features a recipe recruits, and how many."""

from __future__ import annotations

import numpy as np

THRESHOLDS = (1e-6, 0.05, 0.1, 0.3)
"""A feature counts as recruited at threshold t when |theta| > t; counts are given at all of these."""


def recruited(theta: np.ndarray) -> np.ndarray:
    """Return the features of theta (F,) that are not 0, int64, largest |theta| first."""
    on = np.flatnonzero(theta)
    return np.asarray(on[np.argsort(-np.abs(theta[on]), kind="stable")])


def counts(theta: np.ndarray) -> dict[str, int]:
    """Return how many features of theta (F,) are recruited at each threshold, as `n_<threshold>`."""
    return {f"n_{t:g}": int((np.abs(theta) > t).sum()) for t in THRESHOLDS}
