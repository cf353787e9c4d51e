"""Checks that a matrix holds raw counts, and the recovery of counts from log-normalised values."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from ..errors import SteerError

CHUNK = 4096
"""Rows read at once where all are looked at."""


def check_counts(adata: AnnData, *, name: str = "the dataset", min_cells: int = 20) -> None:
    """Refuse anything but a matrix of raw counts with enough cells; reads 4,096 cells at a time, from disk too.

    Raises
    ------
    SteerError
        Too few cells, NaN, negative or fractional values, or cells without a single count.
    """
    if adata.n_obs < min_cells:
        raise SteerError(f"{name} has {adata.n_obs} cells; at least {min_cells} are needed.")
    empty = 0
    for start in range(0, adata.n_obs, CHUNK):
        X = adata.X[start : start + CHUNK]
        _check_values(X.data if sp.issparse(X) else np.asarray(X), name)
        empty += int((np.asarray(X.sum(axis=1)).ravel() == 0).sum())
    if empty:
        msg = f"{name} has {empty} cells without a single count; drop them: scanpy.pp.filter_cells(adata, min_counts=1)."
        raise SteerError(msg)


def _check_values(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise SteerError(f"{name} holds NaN or infinite values; raw counts are needed in X.")
    if values.size and values.min() < 0:
        raise SteerError(f"{name} holds negative values (smallest {values.min():g}); raw counts are needed in X.")
    fraction = values[values != np.round(values)]
    if fraction.size:
        msg = (
            f"{name} does not hold raw counts: X has fractional values such as {fraction[0]:g}. "
            "Put the counts in X, or name their layer with dataset.layer=counts."
        )
        raise SteerError(msg)


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
