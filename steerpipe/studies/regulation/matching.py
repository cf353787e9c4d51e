"""Genes that a TF is co-expressed with as much as with its targets: what its targets have to differ from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment

from ...activations.extract import Counts

CHUNK = 4096
"""Rows of counts read at once."""
SCALE = 1e4
CALIPER = 0.2
FORBIDDEN = 1e6
BALANCED = 0.25
OFFSET = 0.01
"""Added to mean counts before their logarithm: what lies below is as good as silent."""


class Coexpression(NamedTuple):
    """expression: float64 (G,), log of the mean count; correlation: (n, G), of n genes with every gene, log1p CP10K."""

    expression: np.ndarray
    correlation: np.ndarray


def coexpression(counts: Counts, valid: np.ndarray, cells: np.ndarray, columns: np.ndarray) -> Coexpression:
    """Correlate some genes with all, in one pass over some cells.

    Parameters
    ----------
    counts : raw counts (N, G_model), read by rows
    valid : int64 (G,), positions of the valid genes in them
    cells : int64, ascending positions of the cells
    columns : int64 (n,), the genes among the valid ones

    Returns
    -------
    Coexpression
        Pearson's r of log1p(CP10K); 0 for a gene that does not vary
    """
    G, n = len(valid), len(columns)
    mean, total, square, product = np.zeros(G), np.zeros(G), np.zeros(G), np.zeros((n, G))
    for start in range(0, len(cells), CHUNK):
        rows = counts[cells[start : start + CHUNK]].astype(np.float64)
        depth = np.maximum(np.asarray(rows.sum(axis=1)).ravel(), 1)
        raw = sp.csr_matrix(rows[:, valid])
        values = (sp.diags(SCALE / depth) @ raw).log1p()
        mean += np.asarray(raw.sum(axis=0)).ravel()
        total += np.asarray(values.sum(axis=0)).ravel()
        square += np.asarray(values.multiply(values).sum(axis=0)).ravel()
        product += np.asarray((values[:, columns].T @ values).todense())
    N = len(cells)
    covariance = product / N - np.outer(total[columns], total) / N**2
    spread = np.sqrt(np.maximum(square / N - (total / N) ** 2, 0))
    scale = np.outer(spread[columns], spread)
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)
    return Coexpression(np.log(mean / N + OFFSET), np.clip(correlation, -1, 1))


def matched_controls(
    expression: np.ndarray, correlation: np.ndarray, targets: np.ndarray, candidates: np.ndarray, k: int
) -> np.ndarray:
    """Give every target up to k controls of like expression and like correlation with the TF, no gene to two targets.

    One control each, then a second, and so on: each time the assignment of most pairs within the caliper, and of least total
    distance among those, by scipy. Caliper: CALIPER standard deviations of either covariate (Austin, Pharmaceutical
    Statistics 10, 2011).

    Parameters
    ----------
    expression, correlation : (G,)
    targets, candidates : int64, columns that share no gene

    Returns
    -------
    ndarray int64 (n_targets, k)
        -1 where a target has fewer
    """
    points = np.stack([expression, correlation], axis=1)
    spread = points[np.concatenate([targets, candidates])].std(axis=0)
    points = points / np.where(spread > 0, spread, 1)
    apart = np.abs(points[targets][:, None] - points[candidates][None])
    cost = np.where((apart <= CALIPER).all(-1), np.square(apart).sum(-1), FORBIDDEN)
    out = np.full((len(targets), k), -1, np.int64)
    for draw in range(k):
        rows, chosen = linear_sum_assignment(cost)
        near = cost[rows, chosen] < FORBIDDEN
        out[rows[near], draw] = candidates[chosen[near]]
        cost[:, chosen[near]] = FORBIDDEN
    return out


def imbalance(covariate: np.ndarray, targets: np.ndarray, controls: np.ndarray) -> float:
    """Return the standardised mean difference of a covariate between targets and their controls: below BALANCED they are alike.

    Each target counts once, and so do its controls together. Stuart, Statistical Science 25 (2010).

    Parameters
    ----------
    covariate : (G,); targets : int64 (n,); controls : int64 (n, k), -1 for none; targets without any are left out

    Returns
    -------
    float
        in standard deviations of all targets; NaN where no target has a control
    """
    there = controls >= 0
    some = there.any(axis=1)
    if not some.any():
        return float("nan")
    mean = np.where(there, covariate[controls], 0).sum(1)[some] / there.sum(1)[some]
    difference, spread = float((covariate[targets][some] - mean).mean()), float(covariate[targets].std())
    return difference / spread if spread > 0 else 0.0
