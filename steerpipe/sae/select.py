"""Which codes are active, on a CPU: the k largest of each token, screened in int8, and the largest of a batch.

Axis letters: B tokens, D width, F features, K active features a token, C candidates. Rows are independent, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from .kernels import dots

ROWS = 16
"""Rows that one thread takes at a time; they share its scratch arrays."""


def top_k(
    pre_BF: np.ndarray,
    k: int,
    values_BK: np.ndarray,
    indices_BK: np.ndarray,
    scale_F: np.ndarray | None = None,
    shift_F: np.ndarray | None = None,
    scale_B: np.ndarray | None = None,
) -> None:
    """Write the k largest entries of each row and their positions, in no order; exact, ties to the first seen.

    The maxima of `lanes` interleaved slices of a row cost one pass of vector instructions; the k-th largest of them bounds
    the row's k-th largest entry from below, so only slices that reach it are looked into. Integer products of rows and
    columns that were scaled (`quantise`) are ranked as pre * scale_F + shift_F / scale_B.
    """
    n_features = pre_BF.shape[1]
    _top_k(pre_BF, k, min(n_features, max(6 * k, 64)), values_BK, indices_BK, scale_F, shift_F, scale_B)


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _top_k(pre: Any, k: int, lanes: int, values: Any, indices: Any, scale: Any, shift: Any, scale_B: Any) -> None:
    n_rows, n_features = pre.shape
    for chunk in prange((n_rows + ROWS - 1) // ROWS):
        best, row = np.empty(lanes, np.float32), np.empty(n_features, np.float32)
        found, scratch = np.empty(n_features + 1, np.float32), np.empty(max(n_features, lanes), np.float32)
        where, open_lanes = np.empty(n_features + 1, np.int32), np.empty(lanes + 1, np.int32)
        for b in range(chunk * ROWS, min((chunk + 1) * ROWS, n_rows)):
            if scale is None:
                row[:] = pre[b]
                best[:] = row[:lanes]
                for start in range(lanes, n_features, lanes):
                    for j in range(min(lanes, n_features - start)):
                        best[j] = max(best[j], row[start + j])
            else:
                _scaled(pre[b], scale, shift, np.float32(1) / scale_B[b], row, best)
            bound = _at_least(best, lanes, k, scratch)
            m = 0
            for j in range(lanes):  # written always and kept by counting on: no branch to mispredict
                open_lanes[m] = j
                m += best[j] >= bound
            n = 0
            for i in range(m):
                for at in range(open_lanes[i], n_features, lanes):
                    found[n] = row[at]
                    where[n] = at
                    n += row[at] >= bound
            _keep(found, where, n, k, scratch, values[b], indices[b])


@njit(fastmath=True, cache=True, nogil=True)
def _scaled(pre: Any, scale: Any, shift: Any, inverse: Any, row: Any, best: Any) -> None:
    """Write a row of scaled products and the maxima of its lanes in one pass."""
    lanes = best.size
    best[:] = np.finfo(np.float32).min  # no infinities: the arithmetic is told that there are none
    for start in range(0, row.size, lanes):
        n = min(lanes, row.size - start)
        # views that start at 0, which the compiler makes vectors of
        products, factors, terms, out = pre[start:], scale[start:], shift[start:], row[start:]
        for j in range(n):
            out[j] = np.float32(products[j]) * factors[j] + terms[j] * inverse
            best[j] = max(best[j], out[j])


@njit(fastmath=True, cache=True, nogil=True)
def _at_least(x: Any, n: int, k: int, scratch: Any) -> Any:
    """Return a bound that at least k of x[:n] reach, k <= n, and not many more: by bisection, which has no branches."""
    low, high = x[0], x[0]
    for j in range(1, n):
        low, high = min(low, x[j]), max(high, x[j])
    for _ in range(24):
        middle = np.float32(0.5) * (low + high)
        count = np.float32(0)
        for j in range(n):
            count += np.float32(1) if x[j] >= middle else np.float32(0)
        if count >= k:
            low = middle
            if count == k:
                break
        else:
            high = middle
    return low


@njit(fastmath=True, cache=True, nogil=True)
def _keep(x: Any, where: Any, n: int, k: int, scratch: Any, values: Any, indices: Any) -> None:
    """Write the k largest of x[:n], k <= n, and their places; ties at the cut to the first."""
    cut = _at_least(x, n, k, scratch)
    more = 0
    for c in range(n):
        more += x[c] >= cut
    if more > k:  # ties, or values too near each other to bisect
        for c in range(n):
            scratch[c] = x[c]
        cut = _kth_largest(scratch, n, k)
        more = 0
        for c in range(n):
            more += x[c] > cut
        ties = k - more
    else:
        ties = n
    out = 0
    for c in range(n):
        if out < k and (x[c] > cut or (x[c] == cut and ties > 0)):
            ties -= x[c] == cut
            values[out] = x[c]
            indices[out] = where[c]
            out += 1
    for c in range(out, k):  # only where x is not finite: the loss then is not either, and nothing is read out of bounds
        values[c] = np.nan
        indices[c] = where[0]


@njit(fastmath=True, cache=True, nogil=True)
def _kth_largest(x: Any, n: int, k: int) -> Any:
    """Return the k-th largest of x[:n] by quickselect, reordering it."""
    low, high = 0, n - 1
    while low < high:
        pivot = x[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while x[i] > pivot:
                i += 1
            while x[j] < pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return x[k - 1]


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def quantise(x_BD: Any, out_BD: Any, scale_B: Any) -> None:
    """Write rows as int8, each over its own scale, so that x = scale * out to within scale / 2 = max |x| / 254."""
    n_rows, width = x_BD.shape
    for b in prange(n_rows):
        largest = np.float32(1e-30)
        for d in range(width):
            largest = max(largest, abs(x_BD[b, d]))
        scale = largest / np.float32(127)
        scale_B[b] = scale
        inverse = np.float32(1) / scale
        for d in range(width):
            out_BD[b, d] = np.int8(np.rint(x_BD[b, d] * inverse))


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def refine(x_BD: Any, W_enc_FD: Any, b_enc_F: Any, candidates_BC: Any, values_BK: Any, indices_BK: Any) -> None:
    """Write the k largest exact pre-activations among some candidates of each token, and their positions, in no order."""
    n_rows = len(x_BD)
    n, k = candidates_BC.shape[1], values_BK.shape[1]
    for b in prange(n_rows):
        exact, scratch = np.empty(n, np.float32), np.empty(n, np.float32)
        dots(x_BD[b], W_enc_FD, candidates_BC[b], n, exact)
        for c in range(n):
            exact[c] += b_enc_F[candidates_BC[b, c]]
        _keep(exact, candidates_BC[b], n, k, scratch, values_BK[b], indices_BK[b])


def above(pre_BF: np.ndarray, bound: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (counts_B, values_N, features_N) of the entries that reach a bound, token by token."""
    counts = np.empty(len(pre_BF), np.int64)
    _count(pre_BF, np.float32(bound), counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    values, features = np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int32)
    _gather(pre_BF, np.float32(bound), starts, values, features)
    return counts, values, features


def keep_largest(
    n: int, counts_B: np.ndarray, values_N: np.ndarray, features_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return (starts_B, values_N, features_N, cut) of the n largest of some codes; ties at the cut go to the first."""
    cut = float(np.partition(values_N, len(values_N) - n)[len(values_N) - n])
    keep = values_N > cut
    keep[np.flatnonzero(values_N == cut)[: n - int(keep.sum())]] = True
    kept = np.concatenate([[0], np.cumsum(keep)])
    starts = np.concatenate([[0], np.cumsum(counts_B)])
    return kept[starts], values_N[keep], features_N[keep], cut


@njit(parallel=True, cache=True, nogil=True)
def _count(pre: Any, bound: Any, counts: Any) -> None:
    for b in prange(len(pre)):
        n = 0
        for f in range(pre.shape[1]):
            n += pre[b, f] >= bound
        counts[b] = n


@njit(parallel=True, cache=True, nogil=True)
def _gather(pre: Any, bound: Any, starts: Any, values: Any, features: Any) -> None:
    for b in prange(len(pre)):
        at = starts[b]
        for f in range(pre.shape[1]):
            if pre[b, f] >= bound:
                values[at] = pre[b, f]
                features[at] = f
                at += 1
