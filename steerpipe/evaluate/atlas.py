"""Do dictionaries generalise over tissues: similarity in units of two seeds, features by tissue, the rule of the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..sae.stability import match

SILENT, UNIVERSAL, SHARED, SPECIFIC = "silent", "universal", "shared", "specific"
KINDS = (UNIVERSAL, SHARED, SPECIFIC)
TOLD = 0.7
"""AUROC with which a specific feature's rate tells its tissue's cells: a rare one that fires in a few cells does not."""
LEAST_RATE = 1e-4
"""Share of tokens below which, in every tissue, a feature is silent."""
FOLD = 2.0
"""Rates that are within this of each other are alike."""
DEPTH_BINS = 10
LEAST_MATCHED = 8
"""Cells of a tissue that are left at equal depth, below which depth alone separates the tissues."""
ALIKE, NOISE, DOUBLE = 0.9, 2.0, 1.0
RULE = (
    f"rule: generalises if its excess unexplained variance is within {NOISE:g} SDs of the seeds' and its features are at least "
    f"{ALIKE:g} as alike as two seeds'; needs its own if neither, or if more than twice the variance is left unexplained; else "
    "partly."
)


def code_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean correlation of codes matched one to one, of the tokens (n, F_a) and (n, F_b); silent features count 0.

    Over as many pairs as the dictionary with fewer firing features has.
    """

    def standard(codes: np.ndarray) -> np.ndarray:
        spread = codes.std(0)
        fires = spread > 0
        return np.asarray((codes[:, fires] - codes[:, fires].mean(0)) / spread[fires])

    left, right = standard(a.astype(np.float64)), standard(b.astype(np.float64))
    if not left.shape[1] or not right.shape[1]:
        return 0.0
    return float(match(left.T @ right / len(left)).similarity.mean())


def normalised(similarity: np.ndarray) -> np.ndarray:
    """Return s_ij / sqrt(s_ii s_jj), (n, n) -> (n, n): 1 is as alike as two seeds of one tissue."""
    own = np.sqrt(np.maximum(np.diag(similarity), 1e-12))
    return np.asarray(similarity / np.outer(own, own))


def by_tissue(rates: np.ndarray, tissue: Sequence[str] | np.ndarray) -> pd.DataFrame:
    """Return what each feature does in each tissue.

    Parameters
    ----------
    rates : float (N, F), share of a cell's tokens that a feature fires at
    tissue : (N,), each cell's

    Returns
    -------
    DataFrame
        feature; rate in each tissue (`rate NAME`); highest, the tissue of the highest rate; auroc of its cells' rates against
        all others'; entropy of the rates over tissues, of the most that there is; kind: silent, universal (rates within FOLD
        everywhere), specific (the highest at least FOLD times every other, and an AUROC of TOLD), or shared
    """
    names = np.array(sorted(set(map(str, tissue))))
    which = np.asarray(tissue).astype(str)
    means = np.array([rates[which == name].mean(0) for name in names])
    ordered = np.sort(means, axis=0)[::-1]
    share = means / np.maximum(means.sum(0), 1e-300)
    entropy = -(share * np.log(np.maximum(share, 1e-300))).sum(0) / np.log(len(names))
    highest = means.argmax(0)
    ranks = stats.rankdata(rates, axis=0)
    auroc = np.empty(rates.shape[1])
    for t in range(len(names)):
        inside, mine = which == names[t], highest == t
        n = inside.sum()
        auroc[mine] = (ranks[inside][:, mine].sum(0) - n * (n + 1) / 2) / (n * (len(which) - n))
    silent = ordered[0] < LEAST_RATE
    universal = ordered[0] <= FOLD * ordered[-1]
    specific = (ordered[0] >= FOLD * ordered[1]) & (auroc >= TOLD)
    kind = np.select([silent, universal, specific], [SILENT, UNIVERSAL, SPECIFIC], SHARED)
    columns = {f"rate {name}": means[t] for t, name in enumerate(names)}
    frame = {"feature": np.arange(rates.shape[1]), **columns, "highest": names[highest], "auroc": auroc}
    return pd.DataFrame({**frame, "entropy": entropy, "kind": kind})


def shares(kinds: pd.Series | np.ndarray) -> dict[str, float]:
    """Return the share of the features that fire which is of each kind."""
    there = np.asarray(kinds)[np.asarray(kinds) != SILENT]
    return {kind: float((there == kind).mean()) if len(there) else float("nan") for kind in KINDS}


def null_shares(rates: np.ndarray, tissue: np.ndarray, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return the same with the tissues dealt anew among the cells, a row a deal."""
    return pd.DataFrame([shares(by_tissue(rates, rng.permutation(tissue))["kind"]) for _ in range(n)])


def depth_matched(depth: np.ndarray, tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return cells (ascending) of which every tissue has as many in each tenth of log depth; None where too few are left.

    Parameters
    ----------
    depth : (N,) total counts
    """
    logs = np.log(np.maximum(depth, 1))
    edges = np.quantile(logs, np.linspace(0, 1, DEPTH_BINS + 1)[1:-1])
    bins, names, kept = np.searchsorted(edges, logs), sorted(set(tissue)), []
    for b in range(DEPTH_BINS):
        cells = [np.flatnonzero((bins == b) & (tissue == name)) for name in names]
        n = min(map(len, cells))
        kept += [rng.permutation(some)[:n] for some in cells]
    found = np.sort(np.concatenate(kept))
    return found if len(found) >= LEAST_MATCHED * len(names) else None


def depth_aurocs(depth: np.ndarray, tissue: np.ndarray) -> dict[str, float]:
    """Return how well depth alone tells each tissue's cells from all others', .5 (not) to 1 (wholly)."""
    ranks, found = stats.rankdata(depth), {}
    for name in sorted(set(tissue)):
        inside = tissue == name
        n = inside.sum()
        auroc = (ranks[inside].sum() - n * (n + 1) / 2) / (n * (len(tissue) - n))
        found[str(name)] = float(max(auroc, 1 - auroc))
    return found


def verdict(excess: float, noise: float, alike: float) -> str:
    """Return what is said of a dictionary on another tissue, by RULE.

    Parameters
    ----------
    excess : its unexplained variance over that of the tissue's own dictionaries, less 1
    noise : SD over seeds of the tissue's own, over their mean
    alike : normalised similarity of the features, the lesser of directions' and codes'
    """
    near, same = excess <= NOISE * noise, alike >= ALIKE
    if near and same:
        return "generalises"
    return "needs its own" if excess > DOUBLE or not (near or same) else "partly"
