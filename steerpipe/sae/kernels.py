"""The sparse half of a TopK step on a CPU: decoding, gradients that touch active features alone, and Adam.

Only k of F columns carry a gradient, so everything but the encoder's product is of order B k D, not B F D. Axis letters:
B tokens, D width, F features, N active codes of a batch. Active codes are flat: token b's are at starts_B[b] to
starts_B[b + 1] of values_N and features_N. Functions write into arrays that they are given.

Every row is summed by one thread and rows are added up in their order, so the number of threads changes no bit. Codes are
taken four at a time, so that a sum is read and written once for four products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

CHUNK = 256
"""Rows that are summed before the sums are added up."""


def squares(x_BD: np.ndarray) -> tuple[float, float]:
    """Return the squared norm of a batch and of the centred batch."""
    n = (len(x_BD) + CHUNK - 1) // CHUNK
    sums, norms = np.empty((n, x_BD.shape[1])), np.empty(n)
    _sums(x_BD, sums, norms)
    raw = float(norms.sum())
    return raw, raw - float(np.square(sums.sum(0)).sum()) / len(x_BD)


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def _sums(x: Any, sums: Any, norms: Any) -> None:
    n_rows, width = x.shape
    for chunk in prange(len(norms)):
        total, columns = np.float64(0), np.zeros(width, np.float32)
        for b in range(chunk * CHUNK, min((chunk + 1) * CHUNK, n_rows)):
            norm = np.float32(0)
            for d in range(width):
                columns[d] += x[b, d]
                norm += x[b, d] * x[b, d]
            total += norm
        norms[chunk] = total
        sums[chunk] = columns


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def pull(x_BD: Any, centre_D: Any, sums_CD: Any, weights_C: Any, squares_C: Any) -> None:
    """Write, of each chunk of tokens, sum x / r, sum 1 / r and sum r^2, r the distance to a centre (at least 1e-6)."""
    n_rows, width = x_BD.shape
    for chunk in prange(len(weights_C)):
        total, square, columns = np.float64(0), np.float64(0), np.zeros(width, np.float32)
        for b in range(chunk * CHUNK, min((chunk + 1) * CHUNK, n_rows)):
            norm = np.float32(0)
            for d in range(width):
                norm += (x_BD[b, d] - centre_D[d]) * (x_BD[b, d] - centre_D[d])
            weight = np.float32(1) / max(np.sqrt(norm), np.float32(1e-6))
            for d in range(width):
                columns[d] += weight * x_BD[b, d]
            total += weight
            square += norm
        sums_CD[chunk] = columns
        weights_C[chunk], squares_C[chunk] = total, square


@njit(fastmath=True, cache=True, nogil=True)
def _add_rows(out: Any, weights: Any, rows: Any, where: Any, n: int) -> None:
    """Add sum_i weights[i] * rows[where[i]] to out, i < n."""
    width = out.size
    i = 0
    while i + 4 <= n:
        a, b, c, e = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        ra, rb, rc, re = rows[where[i]], rows[where[i + 1]], rows[where[i + 2]], rows[where[i + 3]]
        for d in range(width):
            out[d] += (a * ra[d] + b * rb[d]) + (c * rc[d] + e * re[d])
        i += 4
    while i < n:
        a, ra = weights[i], rows[where[i]]
        for d in range(width):
            out[d] += a * ra[d]
        i += 1


@njit(fastmath=True, cache=True, nogil=True)
def dots(x: Any, rows: Any, where: Any, n: int, out: Any) -> None:
    """Write x . rows[where[i]], i < n."""
    width = x.size
    zero = np.float32(0)
    i = 0
    while i + 4 <= n:
        ra, rb, rc, re = rows[where[i]], rows[where[i + 1]], rows[where[i + 2]], rows[where[i + 3]]
        a, b, c, e = zero, zero, zero, zero
        for d in range(width):
            a += x[d] * ra[d]
            b += x[d] * rb[d]
            c += x[d] * rc[d]
            e += x[d] * re[d]
        out[i], out[i + 1], out[i + 2], out[i + 3] = a, b, c, e
        i += 4
    while i < n:
        ra, a = rows[where[i]], zero
        for d in range(width):
            a += x[d] * ra[d]
        out[i] = a
        i += 1


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def decode(
    starts_B: Any, values_N: Any, features_N: Any, W_dec_FD: Any, b_dec_D: Any, x_BD: Any, error_BD: Any, d_values_N: Any
) -> None:
    """Write error = x_hat - x, x_hat = sum of a token's values * W_dec[features] + b_dec, and error . W_dec[features].

    The latter, times the loss's slope, is the gradient with respect to each active code; a token's rows are still in the
    cache for it.
    """
    n_rows = len(x_BD)
    for b in prange(n_rows):
        error = error_BD[b]
        for d in range(error.size):
            error[d] = b_dec_D[d] - x_BD[b, d]
        start, end = starts_B[b], starts_B[b + 1]
        _add_rows(error, values_N[start:end], W_dec_FD, features_N[start:end], end - start)
        dots(error, W_dec_FD, features_N[start:end], end - start, d_values_N[start:end])


@njit(cache=True, nogil=True)
def by_feature(starts_B: Any, features_N: Any, n_features: int) -> Any:
    """Return (starts_F, order_N, tokens_N): the codes of each feature, ascending, and each one's token."""
    starts = np.zeros(n_features + 1, np.int64)
    for f in features_N:
        starts[f + 1] += 1
    for f in range(n_features):
        starts[f + 1] += starts[f]
    filled = starts[:-1].copy()
    order, tokens = np.empty(features_N.size, np.int32), np.empty(features_N.size, np.int32)
    for b in range(starts_B.size - 1):
        for at in range(starts_B[b], starts_B[b + 1]):
            f = features_N[at]
            order[filled[f]] = at
            tokens[filled[f]] = b
            filled[f] += 1
    return starts, order, tokens


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def weight_gradients(
    starts_F: Any,
    order_N: Any,
    tokens_N: Any,
    values_N: Any,
    d_values_N: Any,
    error_BD: Any,
    x_BD: Any,
    slope: Any,
    dW_enc_FD: Any,
    db_enc_F: Any,
    dW_dec_FD: Any,
) -> None:
    """Write dW_enc = sum d_value x, db_enc = sum d_value and dW_dec = sum value error, times the slope, over its codes."""
    n_features, width = dW_dec_FD.shape
    for f in prange(n_features):
        start, n = starts_F[f], starts_F[f + 1] - starts_F[f]
        tokens, ours = tokens_N[start : start + n], order_N[start : start + n]
        values, d_values = np.empty(n, np.float32), np.empty(n, np.float32)
        bias = np.float32(0)
        for i in range(n):
            values[i] = slope * values_N[ours[i]]
            d_values[i] = slope * d_values_N[ours[i]]
            bias += d_values[i]
        db_enc_F[f] = bias
        for d in range(width):
            dW_enc_FD[f, d] = 0
            dW_dec_FD[f, d] = 0
        _add_rows(dW_enc_FD[f], d_values, x_BD, tokens, n)
        _add_rows(dW_dec_FD[f], values, error_BD, tokens, n)


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def finish_gradients(dW_enc_FD: Any, db_enc_F: Any, dW_dec_FD: Any, W_dec_FD: Any, unit_norm: bool, norms_F: Any) -> None:
    """Write each feature's squared norm of its gradients, with unit_norm without what changes W_dec's length alone."""
    n_features, width = W_dec_FD.shape
    for f in prange(n_features):
        if unit_norm:
            along = np.float32(0)
            for d in range(width):
                along += dW_dec_FD[f, d] * W_dec_FD[f, d]
            for d in range(width):
                dW_dec_FD[f, d] -= along * W_dec_FD[f, d]
        total = db_enc_F[f] * db_enc_F[f]
        for d in range(width):
            total += dW_enc_FD[f, d] * dW_enc_FD[f, d] + dW_dec_FD[f, d] * dW_dec_FD[f, d]
        norms_F[f] = total


@njit(parallel=True, fastmath=True, cache=True, nogil=True)
def adam(
    W_FD: Any, grad_FD: Any, mean_FD: Any, square_FD: Any, factor: Any, beta1: Any, beta2: Any, rate: Any, root: Any, eps: Any,
    unit_norm: bool,
) -> None:  # fmt: skip
    """Step rows by Adam (Kingma and Ba 2015), with unit_norm back to length 1; in place.

    Parameters
    ----------
    factor : of the gradient; rate : learning rate / (1 - beta1^t); root : sqrt(1 - beta2^t); float32 scalars all
    """
    n_rows, width = W_FD.shape
    one = np.float32(1)
    for f in prange(n_rows):
        norm = np.float32(0)
        for d in range(width):
            grad = factor * grad_FD[f, d]
            mean = beta1 * mean_FD[f, d] + (one - beta1) * grad
            square = beta2 * square_FD[f, d] + (one - beta2) * grad * grad
            mean_FD[f, d], square_FD[f, d] = mean, square
            new = W_FD[f, d] - rate * mean / (np.sqrt(square) / root + eps)
            W_FD[f, d] = new
            norm += new * new
        if unit_norm:
            inverse = one / max(np.sqrt(norm), np.float32(1e-12))
            for d in range(width):
                W_FD[f, d] *= inverse
