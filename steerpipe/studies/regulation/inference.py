"""The tests of one TF: does its token move its targets more than they move it, and more than genes it is co-expressed with?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from ...evaluate.population import permutation_p

LEVEL = 0.05


class Tested(NamedTuple):
    """value: the statistic; p: one-sided, (1 + as large) / (1 + draws); lo, hi: 95 % range of the null."""

    value: float
    p: float
    lo: float
    hi: float


def sizes(forward: np.ndarray) -> np.ndarray:
    """Return |effect| of each gene (n,): the mean over features and alphas of |effect| (F, A, n)."""
    return np.asarray(np.abs(forward).mean(axis=(0, 1)), np.float64)


def directions(forward: np.ndarray, tf: int) -> np.ndarray:
    """Return the sign of each gene's change relative to the TF's own, int8 (G,): 1 is with it, -1 against it, 0 neither.

    Whether a feature means more or less of the TF is its own affair; what its steering does to the TF's own prediction tells.

    Parameters
    ----------
    forward : (F, A, G) effects of steering at the TF's token
    tf : the TF's column
    """
    own = np.sign(forward[:, :, tf])
    return np.asarray(np.sign((forward * own[:, :, None]).mean(axis=(0, 1), dtype=np.float64)), np.int8)


def sign_flip(difference: np.ndarray, n_permutations: int, rng: np.random.Generator) -> Tested:
    """Test whether |F| - |R| of a TF's targets is above 0: each one's sign is flipped at random.

    Parameters
    ----------
    difference : (n,)

    Returns
    -------
    Tested
        value is the mean difference
    """
    signs = 2 * rng.integers(0, 2, (n_permutations, len(difference)), dtype=np.int8) - 1
    null = signs.astype(np.float64) @ difference / len(difference)
    return _tested(float(difference.mean()), null)


def matched_auroc(size: np.ndarray, targets: np.ndarray, controls: np.ndarray, n: int, rng: np.random.Generator) -> Tested:
    """Test whether targets have larger effects than their own matched controls.

    Parameters
    ----------
    size : (G,) |F|
    targets : int64 (T,); controls : int64 (T, k), each target's own, -1 for none; targets without any are left out
    n : draws of the null, in each of which any member of a matched set may be the target

    Returns
    -------
    Tested
        value is the AUROC within sets: P(a target's |F| is above a control's of its set), ties one half; NaN without any set
    """
    there = np.concatenate([np.ones((len(targets), 1), bool), controls >= 0], axis=1)  # (T, 1 + k)
    sets = np.concatenate([targets[:, None], controls], axis=1)[there.sum(1) > 1]
    there = there[there.sum(1) > 1]
    if not len(sets):
        return Tested(*(float("nan"),) * 4)
    x = np.where(there, size[sets], np.nan)  # comparisons with NaN are false
    above = (x[:, :, None] > x[:, None, :]).sum(-1) + 0.5 * ((x[:, :, None] == x[:, None, :]).sum(-1) - 1)
    members = there.sum(1)
    share = above / (members - 1)[:, None]
    rank = np.minimum((rng.random((n, len(sets))) * members).astype(np.int64), members - 1)
    order = np.argsort(~there, axis=1, kind="stable")  # members first
    null = share[np.arange(len(sets)), order[np.arange(len(sets)), rank]].mean(axis=1)
    return _tested(float(share[:, 0].mean()), null)


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return P(a positive is above a negative), ties one half (Mann and Whitney); NaN where a side is empty."""
    n, m = len(positive), len(negative)
    if not n * m:
        return float("nan")
    ranks = stats.rankdata(np.concatenate([positive, negative]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


class Agreement(NamedTuple):
    """share: of the pairs whose signs agree; chance: what dealing the known signs anew gives; p: one-sided; n: pairs."""

    share: float
    chance: float
    p: float
    n: int


def sign_agreement(
    found: np.ndarray, known: np.ndarray, groups: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> Agreement:
    """Test whether signs of effects agree with known ones; pairs where either is 0 are left out.

    Most known edges are activating, so that a model which moves all targets with their TF agrees with most of them. The known
    signs are dealt anew within each TF: what is left is whether it tells which targets are repressed.

    Parameters
    ----------
    found, known : (n,) signs
    groups : (n,) the TF of each pair
    """
    keep = (found != 0) & (known != 0)
    found, known, groups = found[keep], known[keep], groups[keep]
    if not len(found):
        return Agreement(*(float("nan"),) * 3, 0)
    hits = np.zeros(n_permutations)
    for group in np.unique(groups):
        here = np.flatnonzero(groups == group)
        dealt = rng.permuted(np.broadcast_to(known[here], (n_permutations, len(here))), axis=1)
        hits += (dealt == found[here]).sum(axis=1)
    test = _tested(float((found == known).mean()), hits / len(found))
    return Agreement(test.value, float(hits.mean() / len(found)), test.p, len(found))


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return Benjamini and Hochberg's q over all finite p-values."""
    q, there = np.full(len(p), np.nan), np.isfinite(p)
    if there.any():
        q[there] = stats.false_discovery_control(p[there])
    return q


def _tested(value: float, null: np.ndarray) -> Tested:
    found = permutation_p(value, null, "higher")
    return Tested(value, found.p, found.lo, found.hi)
