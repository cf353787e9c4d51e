"""How many features a recipe recruits."""

from __future__ import annotations

import numpy as np

THRESHOLDS = (1e-6, 0.05, 0.1, 0.3)
"""A feature counts as recruited at threshold t when |theta| > t; counts are given at all of these."""


def counts(theta: np.ndarray) -> dict[str, int]:
    """Return how many features of theta (F,) are recruited at each threshold, as `n_<threshold>`."""
    return {f"n_{t:g}": int((np.abs(theta) > t).sum()) for t in THRESHOLDS}
