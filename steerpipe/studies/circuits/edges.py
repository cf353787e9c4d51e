"""Which effects are edges: effects, sign-flip p, and the cut at which the nulls give few.

An ablation is deterministic, so that the smallest effect is consistent over cells: Cohen's d of a random direction is as
large as that of a feature, and a p-value only says that an effect has one sign. What tells edges from nulls is the size of the
effect, and the cut is on that, among pairs of small q. Sizes compare between targets: with decoder rows of length 1 all codes
of a layer are in the stream's own units, and all genes at the head are in log1p CP10K.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

CHUNK = 1000
"""Deals of signs that are summed at once."""


class Effects(NamedTuple):
    """Effects on J targets, float64 (J,) each.

    Attributes
    ----------
    effect : mean change over cells
    d : Cohen's d of the paired change, mean over sd; consistency : share of the cells that change in the mean's direction
    """

    effect: np.ndarray
    d: np.ndarray
    consistency: np.ndarray


def effects(changes: np.ndarray) -> Effects:
    """Summarise the changes (n, J) of n >= 2 cells; d is 0 where nothing changes, infinite where every cell changes alike."""
    change = np.asarray(changes, np.float64)
    mean, sd = change.mean(0), change.std(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.where(mean == 0, 0.0, mean / sd)
    return Effects(mean, d, (np.sign(change) == np.sign(mean)).mean(0) * (mean != 0))


def sign_flip_p(changes: np.ndarray, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Return the two-sided p of each target's mean change when every cell's sign is dealt anew, float64 (J,).

    Fisher's randomisation test of paired differences (The Design of Experiments, 1935, section 21): exact over all 2^n deals
    where these are no more than n_permutations, else (1 + number at least as extreme) / (1 + n_permutations).

    Parameters
    ----------
    changes : (n, J)
    """
    n, J = changes.shape
    p = np.ones(J)
    there = np.flatnonzero((changes != 0).any(0))
    if not len(there):
        return p
    exact = n < 31 and 2**n <= n_permutations
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = rng.choice([-1.0, 1.0], (n_permutations, n))
    x = torch.from_numpy(np.asarray(changes[:, there], np.float32))
    x = x / x.abs().amax(0)  # one scale for the tolerance of rounding
    least = x.sum(0).abs() - 1e-4
    count = torch.zeros(len(there), dtype=torch.int64)
    for start in range(0, len(signs), CHUNK):
        some = torch.from_numpy(signs[start : start + CHUNK].astype(np.float32))
        count += ((some @ x).abs() >= least).sum(0)
    extreme = count.double().numpy()
    p[there] = extreme / len(signs) if exact else (1 + extreme) / (1 + len(signs))
    return p


class Cut(NamedTuple):
    """Where edges begin.

    Attributes
    ----------
    size : the smallest |effect| that is an edge; infinite where no cut keeps the empirical FDR
    n_edges : pairs of at least that size
    fdr_direction : pairs of random directions over edges, at the same cut and of as many trials
    fdr_matched : share of the edges that a feature matched in activity gives to the same target
    """

    size: float
    n_edges: int
    fdr_direction: float
    fdr_matched: float


def empirical_cut(real: np.ndarray, directions: list[np.ndarray], matched: list[np.ndarray], level: float) -> Cut:
    """Return the smallest |effect| of edges at which neither empirical FDR is over the level.

    A random direction has no edges, so that every pair of it over the cut counts, whatever the target (target and decoy, Elias
    and Gygi 2007). A matched feature has edges of its own, and counts where it has the same one.

    Parameters
    ----------
    real : float64 (I, J), the sources' |effect|; 0 for a pair that is no candidate (its q is too large)
    directions, matched : of each source the same of its nulls, (R, J); R may be 0
    """
    ordered = np.sort(real[real > 0])
    if not len(ordered):
        return Cut(float("inf"), 0, 0.0, 0.0)
    n_edges = len(ordered) - np.arange(len(ordered))
    decoys, weight = _weighted([null[null > 0] for null in directions], [len(null) for null in directions])
    both = [np.minimum(null, row)[np.minimum(null, row) > 0] for null, row in zip(matched, real, strict=True)]
    shared, share = _weighted(both, [len(null) for null in matched])
    fdr = np.stack([_above(decoys, weight, ordered), _above(shared, share, ordered)]) / n_edges
    kept = np.flatnonzero((fdr <= level).all(0))
    if not len(kept):
        return Cut(float("inf"), 0, 0.0, 0.0)
    at = int(np.searchsorted(ordered, ordered[kept[0]]))  # ties are edges together
    return Cut(float(ordered[at]), int(n_edges[at]), float(fdr[0, at]), float(fdr[1, at]))


def _weighted(values: list[np.ndarray], draws: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Join the values of all sources, each worth one over its source's draws, sorted."""
    joined = np.concatenate(values) if values else np.zeros(0)
    weights = [np.full(len(some), 1 / max(1, n)) for some, n in zip(values, draws, strict=True)]
    weight = np.concatenate(weights) if values else np.zeros(0)
    order = np.argsort(joined)
    return joined[order], weight[order]


def _above(values: np.ndarray, weight: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the summed weight of the values (ascending) that are at least each cut."""
    total = np.r_[0.0, np.cumsum(weight[::-1])][::-1]
    return np.asarray(total[np.searchsorted(values, cuts, side="left")])
