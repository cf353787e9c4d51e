"""Do two trainings find the same features? Decoder rows matched one to one, with controls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Match:
    """Features of dictionary a matched to features of dictionary b.

    Attributes
    ----------
    a, b : int64 (n,), n the smaller number of features; a[i] goes with b[i]
    similarity : float64 (n,) of each pair
    best : float64 (F_a,), each a-feature's largest similarity with any b-feature
    """

    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    best: np.ndarray

    def row(self, threshold: float) -> dict[str, float]:
        """Return the mean matched similarity, the mean best one (MMCS for cosines), the share of pairs above a threshold."""
        return {
            "matched": float(self.similarity.mean()),
            "mmcs": float(self.best.mean()),
            "share_above": float((self.similarity > threshold).mean()),
        }


def cosines(a_FD: np.ndarray, b_FD: np.ndarray) -> np.ndarray:
    """Return float64 (F_a, F_b), the cosine of every pair of decoder rows, signs kept."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a_FD.astype(float), b_FD.astype(float)))
    return np.asarray(a @ b.T)


def ochiai(a_FG: sp.csr_matrix, b_FG: sp.csr_matrix) -> np.ndarray:
    """Return float64 (F_a, F_b), |A n B| / sqrt(|A| |B|) of every pair of gene sets (0/1 rows); 0 for an empty set."""
    sizes = np.sqrt(np.outer(a_FG.sum(1), b_FG.sum(1)))
    return np.asarray((a_FG @ b_FG.T).toarray() / np.maximum(sizes, 1))


def match(similarity: np.ndarray) -> Match:
    """Match rows to columns one to one for the largest total similarity (the Hungarian problem).

    Time: up to O(F^3), 0.1 s at F 1,024 and minutes at 10,000; memory F^2 floats of 8 bytes, a few times.
    """
    a, b = linear_sum_assignment(similarity, maximize=True)
    return Match(a, b, similarity[a, b], similarity.max(1))
