"""The genes that tell the target from the source, and how much of their difference steering makes up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True)
class DEGenes:
    """Gene sets of a contrast, as column positions of the predicted expression: int64 arrays, largest effect first.

    `up` rise from source to target, `down` fall; `_seen` and `_unseen` are the halves that the expression objective
    was and was not fitted on.
    """

    up: np.ndarray
    down: np.ndarray
    up_seen: np.ndarray
    down_seen: np.ndarray
    up_unseen: np.ndarray
    down_unseen: np.ndarray

    def sets(self) -> dict[str, np.ndarray]:
        """Return {name: genes} of the sets that have any."""
        return {name: genes for name, genes in vars(self).items() if len(genes)}


def expressed_genes(counts: np.ndarray, *, share: float = 0.005, mean: float = 0.01) -> np.ndarray:
    """bool (G,): genes with a mean count over `mean` or seen in more than `share` of the cells (N, G)."""
    return np.asarray((counts.mean(0) > mean) | ((counts > 0).mean(0) > share))


def pick_de_genes(source: np.ndarray, target: np.ndarray, expressed: np.ndarray, seen: np.ndarray, n: int) -> DEGenes:
    """Split expressed genes by the sign of (mean target - mean source) and keep the n largest differences of each.

    Chosen on the fit's cells, so that held-out cells are scored on genes that they had no part in choosing.

    Parameters
    ----------
    source, target : (N, G_valid) predicted log1p CP10K of the fit's cells
    expressed, seen : bool (G_valid,)
    n : genes of each direction; of `seen` and `unseen` half as many
    """
    difference = target.mean(0) - source.mean(0)

    def top(sign: int, among: np.ndarray, size: int) -> np.ndarray:
        genes = np.flatnonzero(among & expressed & (np.sign(difference) == sign))
        return genes[np.argsort(-np.abs(difference[genes]), kind="stable")][:size]

    every = np.ones_like(seen)
    return DEGenes(
        *(top(sign, among, size) for among, size in ((every, n), (seen, n // 2), (~seen, n // 2)) for sign in (1, -1))
    )


def gap_fraction(before: np.ndarray, after: np.ndarray, target: np.ndarray, genes: list[str]) -> pd.DataFrame:
    """Return per gene how much of the way from source to target the mean moved: 0 none, 1 reached, > 1 overshoot.

    Parameters
    ----------
    before, after, target : (N, G) predicted log1p CP10K; `before` and `after` are the same source cells

    Returns
    -------
    DataFrame with columns gene, source, steered, target (means), gap_fraction, right_direction
    """
    source, steered, goal = before.mean(0), after.mean(0), target.mean(0)
    gap = goal - source
    safe = np.where(np.abs(gap) > 1e-9, gap, np.nan)
    return pd.DataFrame(
        {
            "gene": genes,
            "source": source,
            "steered": steered,
            "target": goal,
            "gap_fraction": (steered - source) / safe,
            "right_direction": np.sign(steered - source) == np.sign(gap),
        }
    )


def direction_test(gaps: pd.DataFrame, among: np.ndarray) -> tuple[float, float]:
    """Return the share of genes that moved towards the target, and the one-sided binomial p-value against one half."""
    right = gaps["right_direction"].to_numpy()[among]
    return float(right.mean()), float(stats.binomtest(int(right.sum()), len(right), alternative="greater").pvalue)


def cumulative(gaps: pd.DataFrame, among: np.ndarray) -> pd.DataFrame:
    """Return direction and gap fraction over the k genes of largest effect, for every k.

    Parameters
    ----------
    gaps : of gap_fraction
    among : positions of the genes to rank

    Returns
    -------
    DataFrame with columns k, gene, effect (|target - source|), right (share of the k genes that moved towards the target),
    p (one-sided binomial), gap_fraction (way made towards the target over the whole way, both summed over the k genes)
    """
    gap = (gaps["target"] - gaps["source"]).to_numpy()[among]
    order = np.argsort(-np.abs(gap), kind="stable")
    rows = gaps.iloc[np.asarray(among)[order]]
    gap, moved = gap[order], (rows["steered"] - rows["source"]).to_numpy()
    k, right = np.arange(1, len(gap) + 1), np.cumsum(rows["right_direction"].to_numpy())
    return pd.DataFrame(
        {
            "k": k,
            "gene": rows["gene"].to_numpy(),
            "effect": np.abs(gap),
            "right": right / k,
            "p": stats.binom.sf(right - 1, k, 0.5),
            "gap_fraction": np.cumsum(moved * np.sign(gap)) / np.maximum(np.cumsum(np.abs(gap)), 1e-300),
        }
    )


def direction_row(
    before: np.ndarray, after: np.ndarray, target: np.ndarray, *, n_bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Return how a set of genes moved, as a table row.

    Parameters
    ----------
    before, after, target : (N, n) predicted log1p CP10K of the genes; `before` and `after` are the same source cells

    Returns
    -------
    dict: n_genes; right (share that moved towards the target) and its one-sided binomial p; overshoot (share beyond it);
    gap_fraction over all of the genes, with its 95 % bootstrap interval over cells, the gap itself held fixed
    """
    gap, moved = target.mean(0) - before.mean(0), (after - before).astype(np.float64)
    mean = moved.mean(0)
    right = np.sign(mean) == np.sign(gap)
    per_cell = moved @ np.sign(gap) / max(float(np.abs(gap).sum()), 1e-300)
    picks = np.random.default_rng(seed).integers(len(per_cell), size=(n_bootstrap, len(per_cell)))
    lo, hi = map(float, np.percentile(per_cell[picks].mean(1), [2.5, 97.5]))
    return {
        "n_genes": float(len(gap)),
        "right": float(right.mean()),
        "p": float(stats.binomtest(int(right.sum()), len(right), alternative="greater").pvalue),
        "overshoot": float((right & (np.abs(mean) > np.abs(gap))).mean()),
        "gap_fraction": float(per_cell.mean()),
        "gap_fraction_lo": lo,
        "gap_fraction_hi": hi,
    }


def moved_genes(before: np.ndarray, after: np.ndarray, among: np.ndarray, n: int, *, level: float = 0.05) -> list[np.ndarray]:
    """Return the genes that an edit moved, [up, down], the n largest mean changes of each: positions, int64.

    Parameters
    ----------
    before, after : (N, G) predicted expression of the same cells; paired t-test per gene
    among : bool (G,), the genes tested, over which Bonferroni corrects
    """
    change = np.asarray(after, np.float64) - before
    mean, spread = change.mean(0), change.std(0, ddof=1) / np.sqrt(len(change))
    t = np.divide(mean, spread, out=np.where(mean == 0, 0.0, np.inf), where=spread > 0)
    p = 2 * stats.t.sf(np.abs(t), len(change) - 1) * among.sum()
    found = []
    for sign in (1, -1):
        genes = np.flatnonzero(among & (p < level) & (np.sign(mean) == sign))
        found.append(genes[np.argsort(-np.abs(mean[genes]), kind="stable")][:n])
    return found


def de_signs(source: np.ndarray, target: np.ndarray, expressed: np.ndarray, *, level: float = 0.05) -> np.ndarray:
    """Return +1 for genes that rise from source to target, -1 for those that fall, 0 for the others, int64 (G,).

    Welch's t-test on predicted log1p CP10K (N, G) over the expressed genes, Benjamini-Hochberg.
    """
    signs = np.zeros(len(expressed), np.int64)
    genes = np.flatnonzero(expressed & ((source.std(0) > 0) | (target.std(0) > 0)))
    p = stats.ttest_ind(target[:, genes], source[:, genes], equal_var=False).pvalue
    found = genes[stats.false_discovery_control(p) < level]
    signs[found] = np.sign(target[:, found].mean(0) - source[:, found].mean(0))
    return signs
