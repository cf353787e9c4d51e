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
