"""What a recipe has to beat: edits that know nothing of the target, or too much of it."""

from __future__ import annotations

import numpy as np


def random_recipe(theta: np.ndarray, candidates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a recipe's own values on other features, drawn at random: same L0, same |theta|.

    Parameters
    ----------
    theta : (F,) the recipe
    candidates : bool (F,), features to draw from (those that fire in the source cells)

    Returns
    -------
    ndarray (F,)
    """
    values = theta[theta != 0]
    if len(values) > candidates.sum():
        raise ValueError(f"{len(values)} values for {int(candidates.sum())} candidate features")
    out = np.zeros_like(theta)
    out[rng.choice(np.flatnonzero(candidates), len(values), replace=False)] = rng.permutation(values)
    return out


def random_direction(norm: float, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a vector (D,) of the given length in a random direction."""
    vector = rng.standard_normal(width)
    return np.asarray(vector / np.linalg.norm(vector) * norm)


def mean_difference(source: np.ndarray, target: np.ndarray, norm: float | None = None) -> np.ndarray:
    """Return the dense vector (D,) from the mean source to the mean target embedding, scaled to `norm` if given."""
    vector = target.mean(0) - source.mean(0)
    return np.asarray(vector if norm is None else vector / np.linalg.norm(vector) * norm)
