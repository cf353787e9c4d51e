"""Checks that a matrix holds raw counts, and the recovery of counts from log-normalised values."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import SteerError
from .matrices import Matrices, take

CHUNK = 4096
"""Rows read at once where all are looked at."""
NOISE = 1e-3
"""Counts nearer than this to a whole number are that number: other tools write 2.9999998 where they read 3."""


class NotCountsError(SteerError):
    """Values that no raw counts have."""


def read_rows(matrix: Any, rows: Any) -> sp.csr_matrix:
    """Return rows of raw counts, rounded to whole numbers, as float32 CSR.

    Parameters
    ----------
    matrix : counts (N, n_vars), in memory or on disk
    rows : a slice, or ascending positions
    """
    return _rounded(take(matrix, rows))


def check_counts(matrix: Any, *, name: str = "the dataset", where: str = "X", min_cells: int = 20) -> float:
    """Refuse anything but a matrix of raw counts with enough cells; reads 4,096 cells at a time, from disk too.

    Parameters
    ----------
    matrix : (N, n_vars), in memory or on disk
    name, where : how messages call the dataset and the matrix

    Returns
    -------
    How far the value that is farthest from a whole number is from it, below NOISE.

    Raises
    ------
    SteerError
        Too few cells, NaN, negative or fractional values (NotCountsError), or cells without a single count.
    """
    if matrix.shape[0] < min_cells:
        raise SteerError(f"{name} has {matrix.shape[0]} cells; at least {min_cells} are needed.")
    empty, off = 0, 0.0
    for start in range(0, matrix.shape[0], CHUNK):
        X = take(matrix, slice(start, start + CHUNK))
        off = max(off, _check_values(X.data if sp.issparse(X) else np.asarray(X), name, where))
        none = np.asarray(_rounded(X).sum(axis=1)).ravel() == 0
        faint = sp.csr_matrix(X)[none].data if off else np.empty(0)
        if faint.any():  # no count at all, and not zero either: shares of a total, too small to be told from noise
            raise _fractional(name, where, faint.max())
        empty += int(none.sum())
    if empty:
        msg = f"{name} has {empty} cells without a single count; drop them: scanpy.pp.filter_cells(adata, min_counts=1)."
        raise SteerError(msg)
    return off


def where_counts(offered: Matrices, chosen: str | None) -> str:
    """Return what to do about a matrix that does not hold raw counts: which of the others do, by their first 512 cells."""
    others = [name for name in offered.tables if name != (chosen or "X")]
    good = [name for name in others if _holds_counts(offered.tables[name][0])]
    if not good:
        looked = f"; neither does {', '.join(others)}" if others else ""
        return f"raw counts are needed, in X, raw or a layer{looked}."
    setting = "dataset.layer=null" if good[0] == "X" else f"dataset.layer={good[0]}"
    also = f" (so do: {', '.join(good[1:])})" if good[1:] else ""
    return f"{setting} would do: it holds counts{also}."


def _holds_counts(matrix: Any) -> bool:
    try:
        check_counts(take(matrix, slice(0, 512)), min_cells=1)
    except NotCountsError:
        return False
    except SteerError:  # cells without a count, which are said when it is chosen
        return True
    return True


def _rounded(X: Any) -> sp.csr_matrix:
    """Round to whole numbers; the matrix itself, as float32 CSR, where nothing changes."""
    counts = sp.csr_matrix(X, dtype=np.float32)
    whole = np.rint(counts.data)
    if np.array_equal(whole, counts.data):
        return counts
    rounded = sp.csr_matrix((whole, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
    rounded.eliminate_zeros()
    return rounded


def _check_values(values: np.ndarray, name: str, where: str) -> float:
    if not np.isfinite(values).all():
        raise NotCountsError(f"{name} holds NaN or infinite values in {where};")
    if values.size and values.min() <= -NOISE:
        raise NotCountsError(f"{name} holds negative values (smallest {values.min():g}) in {where};")
    off = np.abs(values - np.rint(values)) if values.dtype.kind == "f" else np.zeros(1)
    if (off >= NOISE).any():
        raise _fractional(name, where, values[off >= NOISE][0])
    return float(off.max(initial=0))


def _fractional(name: str, where: str, value: float) -> NotCountsError:
    return NotCountsError(f"{name} does not hold raw counts: {where} has fractional values such as {value:g};")


def recover_counts(log_values: np.ndarray | sp.spmatrix) -> sp.csr_matrix:
    """Undo log1p(count / total * scale) per cell: round(expm1(x) / smallest non-zero expm1(x)).

    Right where every cell has a gene with exactly one count, as single-cell data do.

    Parameters
    ----------
    log_values : float (N, G), log-normalised, not scaled

    Returns
    -------
    csr_matrix float32 (N, G), integer counts
    """
    X = sp.csr_matrix(log_values, dtype=np.float64).copy()
    X.data = np.expm1(X.data)
    X.eliminate_zeros()
    for i in range(X.shape[0]):
        row = slice(X.indptr[i], X.indptr[i + 1])
        if row.stop > row.start:
            X.data[row] = np.round(X.data[row] / X.data[row].min())
    return X.astype(np.float32)
