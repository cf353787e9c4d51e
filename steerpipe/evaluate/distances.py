"""How far cells are from the target, before and after, and what that says of a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Score:
    """One recipe on one group of cells in one space.

    Attributes
    ----------
    n : cells
    closer, closer_lo, closer_hi : share of cells that end closer to the target, with its 95 % bootstrap interval
    change, change_lo, change_hi : median of after / before - 1 (negative is closer), likewise
    p : one-sided Wilcoxon signed-rank, after < before
    """

    n: int
    closer: float
    closer_lo: float
    closer_hi: float
    change: float
    change_lo: float
    change_hi: float
    p: float

    def row(self) -> dict[str, float]:
        """Return the score as a table row."""
        return asdict(self)


def distances(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row (N, D) to a point (D,), float64 (N,)."""
    return np.asarray(np.linalg.norm(np.asarray(points, np.float64) - np.asarray(centre, np.float64), axis=1))


def pairwise(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row (N, D) to each row of `others` (M, D), float64 (N, M)."""
    a, b = np.asarray(points, np.float64), np.asarray(others, np.float64)
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(square, 0)))


def nearest_mean(points: np.ndarray, others: np.ndarray, k: int = 10) -> np.ndarray:
    """Mean Euclidean distance of each row (N, D) to its k nearest rows of `others` (M, D), float64 (N,)."""
    return np.asarray(np.sort(pairwise(points, others), axis=1)[:, :k].mean(1))


def score(before: np.ndarray, after: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0) -> Score:
    """Compare each cell's distance after steering with that before.

    Parameters
    ----------
    before, after : (N,) distances of the same cells
    n_bootstrap : resamples of the cells for the intervals
    """
    closer = (after < before).astype(np.float64)
    change = after / np.maximum(before, 1e-300) - 1
    picks = np.random.default_rng(seed).integers(len(before), size=(n_bootstrap, len(before)))
    share, median = closer[picks].mean(1), np.median(change[picks], axis=1)
    closer_lo, closer_hi = map(float, np.percentile(share, [2.5, 97.5]))
    change_lo, change_hi = map(float, np.percentile(median, [2.5, 97.5]))
    moved = not np.array_equal(before, after)
    p = float(stats.wilcoxon(after, before, alternative="less").pvalue) if moved else 1.0
    return Score(
        n=len(before),
        closer=float(closer.mean()),
        closer_lo=closer_lo,
        closer_hi=closer_hi,
        change=float(np.median(change)),
        change_lo=change_lo,
        change_hi=change_hi,
        p=p,
    )
