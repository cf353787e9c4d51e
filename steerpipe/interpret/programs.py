"""A feature's gene set: how many genes it fires on (participation ratio), and which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from ..activations.extract import Counts
from .activity import top_genes

CHUNK = 4096
"""Rows of counts read at once."""


def gene_expression(counts: Counts, valid: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each valid gene's mean count and the share of cells that have it, float64 (G,), in one pass over some cells.

    Parameters
    ----------
    counts : raw counts (N, G_model), read by rows
    valid : int64 (G,), positions of the valid genes in them
    cells : int64, ascending positions of the cells
    """
    total, there = np.zeros(len(valid)), np.zeros(len(valid))
    for start in range(0, len(cells), CHUNK):
        rows = counts[cells[start : start + CHUNK]][:, valid]
        total += np.asarray(rows.sum(axis=0)).ravel()
        there += np.asarray((rows > 0).sum(axis=0)).ravel()
    return total / len(cells), there / len(cells)


def background(mean: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return bool (G,): the expressed genes, mean count > 0.01 or in > 0.5 % of cells."""
    return np.asarray((mean > 0.01) | (share > 0.005))


def participation_ratio(M: np.ndarray) -> np.ndarray:
    """Return PR_f = (sum_g M^2)^2 / sum_g M^4, float64 (F,): the number of genes a feature is spread over; 0 for a dead one."""
    out = np.zeros(M.shape[0])
    for f in range(M.shape[0]):
        row = np.asarray(M[f], np.float64)
        square = (row / max(float(row.max(initial=0)), 1e-300)) ** 2  # scale-free, and float64 never under- or overflows
        total = float(square.sum())
        out[f] = total**2 / float((square**2).sum()) if total > 0 else 0.0
    return out


def gene_sets(M: np.ndarray, pr: np.ndarray, *, smallest: int = 10, largest: int = 100) -> sp.csr_matrix:
    """Return the sets int32 (F, G): each feature's top round(PR) genes, clipped; fewer where fewer are above 0.

    Parameters
    ----------
    M : (F, G) mean |z|; pr : (F,)
    """
    wanted = np.where(pr > 0, np.clip(np.round(pr), smallest, largest), 0).astype(np.int64)
    best = top_genes(M, largest)
    keep = (np.arange(best.shape[1]) < wanted[:, None]) & (best >= 0)
    rows = np.broadcast_to(np.arange(len(best))[:, None], best.shape)[keep]
    return sp.csr_matrix((np.ones(len(rows), np.int32), (rows, best[keep])), shape=M.shape)


def matched_random_sets(
    sets: sp.csr_matrix, expression: np.ndarray, rng: np.random.Generator, *, n_bins: int = 20
) -> sp.csr_matrix:
    """Return random sets of the same sizes, each gene replaced by one of its expression bin; no gene twice in a set.

    Parameters
    ----------
    sets : (F, G), on the background's genes
    expression : (G,) mean count, cut into bins of equal numbers of genes
    """
    rank = np.argsort(np.argsort(expression, kind="stable"), kind="stable")
    bins = rank * n_bins // len(expression)
    members = [np.flatnonzero(bins == b) for b in range(n_bins)]
    columns = np.empty_like(sets.indices)
    for f in range(sets.shape[0]):
        row = slice(sets.indptr[f], sets.indptr[f + 1])
        per_bin = np.bincount(bins[sets.indices[row]], minlength=n_bins)
        drawn = [rng.choice(members[b], n, replace=False) for b, n in enumerate(per_bin) if n]
        columns[row] = np.concatenate(drawn) if drawn else columns[row]
    return sp.csr_matrix((np.ones(len(columns), np.int32), columns, sets.indptr.copy()), shape=sets.shape)


def set_genes(sets: sp.csr_matrix, M: np.ndarray, feature: int, genes: Sequence[str]) -> list[str]:
    """Return the symbols of one feature's set, strongest first."""
    columns = sets.indices[sets.indptr[feature] : sets.indptr[feature + 1]]
    order = np.argsort(-np.asarray(M[feature])[columns], kind="stable")
    return [genes[i] for i in columns[order]]
