"""What steering one feature alone does to predicted expression, over alpha, beside its nulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy import stats
from torch import Tensor

from ..progress import track
from ..sae.model import TopKSAE, weighted_rows
from ..steering.intervene import CachedCells, Edit, State, run_edit, scale_features
from .enrichment import enrich

LEVEL = 0.05


class Dose(NamedTuple):
    """One feature, or one null, over alpha.

    Attributes
    ----------
    table : columns kind, seed, alpha, up, down (genes), shift (mean length of the change of the final embedding)
    moved : int8 (n_alphas, G): 1 a gene that goes up, -1 down, 0 neither; in the order of the table's rows
    """

    table: pd.DataFrame
    moved: np.ndarray


def moved_genes(before: np.ndarray, after: np.ndarray, min_change: float) -> np.ndarray:
    """Return which genes steering moves, int8 (G,): the sign of the mean change where it is over min_change and
    significant (two-sided paired t, Bonferroni over genes), else 0.

    Parameters
    ----------
    before, after : (N, G) predicted log1p CP10K of the same cells, N at least 2
    """
    change = np.asarray(after, np.float64) - before
    n, mean = len(change), change.mean(0)
    error = change.std(0, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, 2 * stats.t.sf(np.abs(mean) / error, n - 1), np.where(mean == 0, 1.0, 0.0))
    real = (p * change.shape[1] < LEVEL) & (np.abs(mean) > min_change)
    return np.asarray(np.where(real, np.sign(mean), 0), np.int8)


def single_feature(sae: TopKSAE, feature: int, alpha: float) -> Edit:
    """Return the edit that multiplies one feature's code by alpha."""
    theta = torch.zeros(sae.n_features, device=sae.W_dec.device)
    theta[feature] = alpha - 1
    return scale_features(sae, theta)


def along(sae: TopKSAE, feature: int, alpha: float, direction: Tensor) -> Edit:
    """Return the edit of the same size at every token, but along a direction (D,) in place of the feature's decoder row."""
    rows = torch.zeros_like(sae.W_dec)
    rows[feature] = (alpha - 1) * sae.W_dec[feature].norm() * direction / direction.norm()
    return lambda x: weighted_rows(sae.encode(x), rows)


def matched_features(activity: np.ndarray, feature: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n features among the 4 n of mean |code| nearest (in ratio) to a feature's, itself and silent ones left out.

    Parameters
    ----------
    activity : (F,) mean |code| in the cells that are steered
    """
    others = np.flatnonzero((activity > 0) & (np.arange(len(activity)) != feature))
    if not len(others) or activity[feature] <= 0:
        return np.zeros(0, np.int64)
    distance = np.abs(np.log(activity[others] / activity[feature]))
    near = others[np.argsort(distance, kind="stable")[: 4 * n]]
    return np.asarray(rng.choice(near, min(n, len(near)), replace=False), np.int64)


def dose_response(
    cached: CachedCells,
    sae: TopKSAE,
    feature: int,
    alphas: Sequence[float],
    *,
    nulls: np.ndarray,
    directions: int,
    min_change: float,
    rng: np.random.Generator,
    batch_size: int,
) -> Dose:
    """Steer a feature alone over alpha, then as many null features, then random directions of the same size at each token.

    Cost: (1 + len(nulls) + directions) * len(alphas) passes of the cells through the blocks above the layer.

    Returns
    -------
    Dose
        rows of kind feature (seed 0), random feature, random direction
    """
    cells = np.arange(len(cached))
    base = run_edit(cached, cells, None, batch_size=batch_size)
    D = sae.W_dec.shape[1]
    units = [torch.from_numpy(rng.standard_normal(D).astype(np.float32)).to(sae.W_dec.device) for _ in range(directions)]
    trials = [("feature", 0, alpha, single_feature(sae, feature, alpha)) for alpha in alphas]
    trials += [
        ("random feature", int(null), alpha, single_feature(sae, int(null), alpha)) for null in nulls for alpha in alphas
    ]
    trials += [
        ("random direction", seed, alpha, along(sae, feature, alpha, unit))
        for seed, unit in enumerate(units)
        for alpha in alphas
    ]
    rows, moved = [], []
    for kind, seed, alpha, edit in track(trials, "dose response", len(trials)):
        state: State = base if alpha == 1 else run_edit(cached, cells, edit, batch_size=batch_size)
        signs = moved_genes(base.expression, state.expression, min_change)
        shift = float(np.linalg.norm(state.final - base.final, axis=1).mean())
        rows.append((kind, seed, alpha, int((signs > 0).sum()), int((signs < 0).sum()), shift))
        moved.append(signs)
    return Dose(pd.DataFrame(rows, columns=["kind", "seed", "alpha", "up", "down", "shift"]), np.stack(moved))


def symmetry(dose: Dose, library: sp.csr_matrix, background: np.ndarray, q: float) -> pd.DataFrame:
    """Compare what alpha = 1 + t raises with what 1 - t lowers, and the other way round: genes, and enriched sets.

    A direction with one meaning gives mirror images: overlaps (Ochiai) near 1. Genes and sets can differ: 0 there is not
    "no effect" but another effect.

    Parameters
    ----------
    library : 0/1 (S, N) on the background's genes; background : int (N,), their columns among the dose's genes

    Returns
    -------
    DataFrame with columns alpha, mirror, direction (up/down at alpha against down/up at the mirror), genes, mirror_genes,
    gene_overlap, sets, mirror_sets, set_overlap; overlaps are NaN where a side is empty
    """
    own = dose.table[dose.table["kind"] == "feature"]
    at = {float(alpha): i for i, alpha in zip(own.index, own["alpha"], strict=True)}
    rows = []
    for alpha in sorted(a for a in at if a > 1 and 2 - a in at):
        for direction, sign in (("up", 1), ("down", -1)):
            one, other = dose.moved[at[alpha]] == sign, dose.moved[at[2 - alpha]] == -sign
            lists = sp.csr_matrix(np.stack([one[background], other[background]]).astype(np.int32))
            hits = enrich(lists, library).significant(q)
            sets = [hits.term[hits.feature == i] for i in (0, 1)]
            rows.append(
                {
                    "alpha": alpha,
                    "mirror": 2 - alpha,
                    "direction": direction,
                    "genes": int(one.sum()),
                    "mirror_genes": int(other.sum()),
                    "gene_overlap": _ochiai(int((one & other).sum()), int(one.sum()), int(other.sum())),
                    "sets": len(sets[0]),
                    "mirror_sets": len(sets[1]),
                    "set_overlap": _ochiai(len(np.intersect1d(*sets)), len(sets[0]), len(sets[1])),
                }
            )
    columns = ["alpha", "mirror", "direction", "genes", "mirror_genes", "gene_overlap", "sets", "mirror_sets", "set_overlap"]
    return pd.DataFrame(rows, columns=columns)


def _ochiai(both: int, a: int, b: int) -> float:
    return both / np.sqrt(a * b) if a and b else float("nan")
