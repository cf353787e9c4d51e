"""The sparse half of a TopK step on a CPU: exact top-k, decoding, and gradients that touch active features alone.

Only k of F columns carry a gradient, so everything but the encoder's product is of order B k D, not B F D. Axis letters:
B tokens, D width, F features, K active features. Each function writes into arrays that it is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

ROWS = 16
"""Rows that one thread takes at a time; they share its scratch arrays."""


def top_k(pre_BF: np.ndarray, k: int, values_BK: np.ndarray, indices_BK: np.ndarray) -> None:
    """Write the k largest entries of each row and their positions, in no order; exact, ties to the first seen.

    The maxima of `lanes` interleaved slices of a row cost one pass of vector instructions; the k-th largest of them bounds
    the row's k-th largest entry from below, so only slices that reach it are looked into.
    """
    n_features = pre_BF.shape[1]
    lanes = min(n_features, max(4 * k, 64))
    _top_k(pre_BF, k, lanes, values_BK, indices_BK)


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _top_k(pre: Any, k: int, lanes: int, values: Any, indices: Any) -> None:
    n_rows, n_features = pre.shape
    depth = (n_features + lanes - 1) // lanes
    for chunk in prange((n_rows + ROWS - 1) // ROWS):
        best = np.empty(lanes, np.float32)
        scratch = np.empty(max(lanes, n_features), np.float32)
        where = np.empty(n_features, np.int32)
        for b in range(chunk * ROWS, min((chunk + 1) * ROWS, n_rows)):
            row = pre[b]
            for j in range(lanes):
                best[j] = row[j]
            for i in range(1, depth):
                start = i * lanes
                for j in range(min(lanes, n_features - start)):
                    best[j] = max(best[j], row[start + j])
            for j in range(lanes):
                scratch[j] = best[j]
            bound = _kth_largest(scratch, lanes, k) if lanes > k else -np.inf
            n = 0
            for j in range(lanes):
                if best[j] >= bound:
                    for at in range(j, n_features, lanes):
                        if row[at] >= bound:
                            scratch[n] = row[at]
                            where[n] = at
                            n += 1
            cut = np.float32(0)
            copy = scratch[:n].copy()
            cut = _kth_largest(copy, n, k)
            out = 0
            for c in range(n):
                if scratch[c] > cut:
                    values[b, out] = scratch[c]
                    indices[b, out] = where[c]
                    out += 1
            for c in range(n):
                if out == k:
                    break
                if scratch[c] == cut:
                    values[b, out] = cut
                    indices[b, out] = where[c]
                    out += 1


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
def decode_error(values_BK: Any, indices_BK: Any, W_dec_FD: Any, b_dec_D: Any, x_BD: Any, error_BD: Any) -> None:
    """Write x_hat - x, x_hat = sum_k values * W_dec[indices] + b_dec."""
    n_rows, k = values_BK.shape
    width = x_BD.shape[1]
    for b in prange(n_rows):
        for d in range(width):
            error_BD[b, d] = b_dec_D[d] - x_BD[b, d]
        for j in range(k):
            value = values_BK[b, j]
            f = indices_BK[b, j]
            for d in range(width):
                error_BD[b, d] += value * W_dec_FD[f, d]


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def code_gradients(slope_BD: Any, indices_BK: Any, W_dec_FD: Any, out_BK: Any) -> None:
    """Write slope . W_dec[indices]: the loss's gradient with respect to each active code."""
    n_rows, k = indices_BK.shape
    width = slope_BD.shape[1]
    for b in prange(n_rows):
        for j in range(k):
            f = indices_BK[b, j]
            total = np.float32(0)
            for d in range(width):
                total += slope_BD[b, d] * W_dec_FD[f, d]
            out_BK[b, j] = total


@njit(cache=True, nogil=True)
def by_feature(indices_BK: Any, n_features: int) -> Any:
    """Return (starts (F + 1,), order (B K,)): the flat positions of each feature's codes, ascending."""
    flat = indices_BK.ravel()
    starts = np.zeros(n_features + 1, np.int64)
    for f in flat:
        starts[f + 1] += 1
    for f in range(n_features):
        starts[f + 1] += starts[f]
    filled = starts[:-1].copy()
    order = np.empty(flat.size, np.int64)
    for at in range(flat.size):
        f = flat[at]
        order[filled[f]] = at
        filled[f] += 1
    return starts, order


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def weight_gradients(
    starts: Any,
    order: Any,
    values_BK: Any,
    d_values_BK: Any,
    slope_BD: Any,
    x_BD: Any,
    dW_enc_FD: Any,
    db_enc_F: Any,
    dW_dec_FD: Any,
) -> None:
    """Write dW_enc = sum d_value x, db_enc = sum d_value and dW_dec = sum value slope, over each feature's codes."""
    n_features, width = dW_dec_FD.shape
    k = values_BK.shape[1]
    values, d_values = values_BK.ravel(), d_values_BK.ravel()
    for f in prange(n_features):
        for d in range(width):
            dW_enc_FD[f, d] = 0
            dW_dec_FD[f, d] = 0
        bias = np.float32(0)
        for at in range(starts[f], starts[f + 1]):
            flat = order[at]
            b = flat // k
            value, d_value = values[flat], d_values[flat]
            bias += d_value
            for d in range(width):
                dW_enc_FD[f, d] += d_value * x_BD[b, d]
                dW_dec_FD[f, d] += value * slope_BD[b, d]
        db_enc_F[f] = bias
