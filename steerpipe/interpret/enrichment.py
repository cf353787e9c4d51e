"""Over-representation of every feature's gene set in every set of a library, in one pass.

p = P(X >= k), X hypergeometric: k of the n genes of a feature's set among the K of a library's set, N genes in all. Only
overlapping pairs are ever held: the others have p = 1 and q = 1, and still count in the correction. Time and memory go with
the overlapping pairs; p and q are looked up in a table over (feature-set size, library-set size, overlap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaln


@dataclass(frozen=True)
class Enrichment:
    """Every overlapping (feature, set) pair, by feature and then by set.

    Attributes
    ----------
    feature, term, overlap : int32 (n_pairs,), row of the features, row of the library, k
    p, q : float64 (n_pairs,); q is Benjamini and Hochberg's over `tested` pairs, overlapping or not
    tested : pairs in the correction: features with a gene in the background, times sets
    """

    feature: np.ndarray
    term: np.ndarray
    overlap: np.ndarray
    p: np.ndarray
    q: np.ndarray
    tested: int

    def significant(self, q: float) -> Enrichment:
        """Return the pairs below a q."""
        return self.take(np.flatnonzero(self.q < q))

    def take(self, keep: np.ndarray) -> Enrichment:
        """Return some of the pairs."""
        return Enrichment(self.feature[keep], self.term[keep], self.overlap[keep], self.p[keep], self.q[keep], self.tested)

    def annotated(self, n_features: int, q: float) -> np.ndarray:
        """Return bool (F,): features with a set below a q."""
        out = np.zeros(n_features, bool)
        out[self.feature[self.q < q]] = True
        return out

    def best(self, information: np.ndarray | None = None) -> np.ndarray:
        """Return the pair of smallest p of each feature that has one; ties go to the more informative set, then the first."""
        content = np.zeros(len(self.p)) if information is None else np.nan_to_num(information[self.term])
        order = np.lexsort((self.term, -content, self.p, self.feature))
        first = np.r_[True, self.feature[order][1:] != self.feature[order][:-1]] if len(order) else np.zeros(0, bool)
        return np.asarray(order[first])


def enrich(features: sp.csr_matrix, library: sp.csr_matrix) -> Enrichment:
    """Test all features against all sets.

    Parameters
    ----------
    features : 0/1 (F, N), each feature's gene set on the background's N genes
    library : 0/1 (S, N)
    """
    N = features.shape[1]
    n, K = np.diff(features.indptr), np.diff(library.indptr)
    overlaps = sp.csr_matrix(features.astype(np.int32) @ library.astype(np.int32).T.tocsr())
    overlaps.sort_indices()
    feature = np.repeat(np.arange(len(n), dtype=np.int32), np.diff(overlaps.indptr))
    term, k = overlaps.indices.astype(np.int32), overlaps.data
    sizes_n, at_n = np.unique(n, return_inverse=True)
    sizes_K, at_K = np.unique(K, return_inverse=True)
    table = upper_tails(sizes_n, sizes_K, N, int(k.max(initial=0)))
    cell = (at_n.astype(np.int64)[feature] * len(sizes_K) + at_K[term]) * table.shape[2] + k
    tested = int((n > 0).sum()) * len(K)
    q = _q_values(table.ravel(), np.bincount(cell, minlength=table.size), tested)
    return Enrichment(feature, term, k, table.ravel()[cell], q[cell], tested)


def upper_tails(n: np.ndarray, K: np.ndarray, N: int, largest: int) -> np.ndarray:
    """Return P(X >= k) for every n, K and k = 0..largest, float64 (len(n), len(K), largest + 1).

    Summed from the small end in float64, so that the smallest p-values keep their digits.
    """
    n, K = n[:, None, None].astype(np.float64), K[None, :, None].astype(np.float64)
    top = int(min(n.max(initial=0), K.max(initial=0)))
    k = np.arange(max(top, largest) + 1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        log_pmf = _log_choose(K, k) + _log_choose(N - K, n - k) - _log_choose(np.float64(N), n)  # NaN where k is not to be had
    possible = (k <= n) & (k <= K) & (n - k <= N - K)
    pmf = np.where(possible, np.exp(np.where(possible, log_pmf, 0.0)), 0.0)
    tails = np.cumsum(pmf[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(np.minimum(tails[..., : largest + 1], 1.0))


def _log_choose(a: np.ndarray | np.float64, b: np.ndarray) -> np.ndarray:
    """log of a over b by log-gamma; NaN or nonsense outside 0 <= b <= a, which the caller masks."""
    b = np.clip(b, 0, None)
    rest = np.clip(a - b, 0, None)
    return np.asarray(gammaln(a + 1) - gammaln(b + 1) - gammaln(rest + 1))


def _q_values(p: np.ndarray, times: np.ndarray, tested: int) -> np.ndarray:
    """Benjamini and Hochberg's q of each distinct p, met `times` times among `tested` of which the others are 1."""
    q = np.ones_like(p)
    used = np.flatnonzero(times)
    order = used[np.argsort(p[used], kind="stable")]
    rank = np.cumsum(times[order])
    q[order] = np.minimum(np.minimum.accumulate((p[order] * tested / rank)[::-1])[::-1], 1.0)
    return q
