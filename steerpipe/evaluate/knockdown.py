"""Whether a predicted change finds a perturbation's DE genes, and whether a recipe knows its gene's programmes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from .de import de_signs

LEAST_DE = 3


class RealChange(NamedTuple):
    """What a perturbation does to measured expression.

    Attributes
    ----------
    signs : int64 (G,), +1 and -1 for DE genes, 0 for the others (Welch, Benjamini-Hochberg at 5 %)
    change : float64 (G,), difference of mean log1p CP10K
    among : bool (G,), genes that are ranked: expressed in the control, and not hit themselves
    """

    signs: np.ndarray
    change: np.ndarray
    among: np.ndarray


def real_change(control: np.ndarray, perturbed: np.ndarray, among: np.ndarray) -> RealChange:
    """Return the change between measured cells, log1p CP10K (N, G) and (M, G)."""
    return RealChange(de_signs(control, perturbed, among), perturbed.mean(0) - control.mean(0), among)


def de_scores(predicted: np.ndarray, real: RealChange) -> dict[str, float]:
    """Return how well a predicted change (G,) finds the real DE genes.

    Returns
    -------
    auprc, of |predicted| as the ranking (chance is the share of DE genes); overlap, share of the n DE genes among its n
    largest; sign, share of the DE genes whose sign it has, 0 being wrong. NaN below LEAST_DE DE genes.
    """
    size, truth = np.abs(predicted[real.among]), real.signs[real.among] != 0
    n = int(truth.sum())
    if n < LEAST_DE or n == len(truth):
        return dict.fromkeys(("auprc", "overlap", "sign"), float("nan"))
    # ties share a rank: a change of 0 everywhere overlaps as chance does
    order = np.lexsort([np.random.default_rng(0).permutation(len(size)), -size])
    same = np.sign(predicted[real.among]) == real.signs[real.among]
    return {
        "auprc": float(average_precision_score(truth, size)),
        "overlap": float(truth[order[:n]].mean()),
        "sign": float(same[truth].mean()),
    }


def programme_auroc(weights: np.ndarray, terms: Sequence[np.ndarray], own: np.ndarray) -> float:
    """Return the AUROC with which a recipe's weight on genes (G,) ranks some programmes (own, bool (T,)) above the others.

    A programme's score is the mean weight of its genes (terms: T arrays of columns).
    """
    if not own.any() or own.all() or not weights.any():
        return float("nan")
    scores = [float(weights[some].mean()) if len(some) else 0.0 for some in terms]
    return float(roc_auc_score(own, scores))


def cosines(rows: np.ndarray) -> np.ndarray:
    """Return the cosine of every pair of rows, (P, F) -> (P, P); 0 with a row of zeros."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return np.asarray(unit @ unit.T)


class Block(NamedTuple):
    """Mean similarity within a block, between it and the others, and p of the difference under names dealt anew."""

    within: float
    between: float
    p: float


def block_test(similarity: np.ndarray, block: np.ndarray, n_permutations: int, rng: np.random.Generator) -> Block:
    """Test whether members of a block (bool (P,)) are more alike than they are to the others; one-sided."""

    def parts(members: np.ndarray) -> tuple[float, float]:
        inside = similarity[np.ix_(members, members)]
        return float(inside[np.triu_indices(members.sum(), 1)].mean()), float(similarity[np.ix_(members, ~members)].mean())

    within, between = parts(block)
    drawn = [parts(rng.permutation(block)) for _ in range(n_permutations)]
    p = (1 + sum(a - b >= within - between for a, b in drawn)) / (1 + n_permutations)
    return Block(within, between, float(p))


def names_dealt(
    aurocs: Mapping[str, Mapping[str, float]], n_permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the mean AUROC of recipes for their own genes' programmes, and p under genes' names dealt among recipes.

    Parameters
    ----------
    aurocs : {recipe: {gene: AUROC of the gene's programmes under the recipe}}, every recipe with every gene
    """
    names = list(aurocs)
    table = np.array([[aurocs[recipe][gene] for gene in names] for recipe in names])
    own = float(np.mean(np.diag(table)))
    drawn = [float(table[np.arange(len(names)), rng.permutation(len(names))].mean()) for _ in range(n_permutations)]
    return own, float((1 + sum(one >= own - 1e-12 for one in drawn)) / (1 + n_permutations))
