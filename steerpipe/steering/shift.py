"""Recipes in embedding space: what one adds to a cell's pooled stream, and the values that a clamped support is best set to."""

from __future__ import annotations

import numpy as np

from ..sae.model import TopKSAE
from .intervene import CachedCells
from .lasso import LatentProblem


def clamp_values(problem: LatentProblem, support: np.ndarray, token_share: float) -> np.ndarray:
    """Return the codes (F,) to which a support is best set: least squares, exact; the shortest where many are best.

    Set to c, feature f adds (share c_f - zbar_f) W_f to an embedding, so c is the same for all cells and nothing about it
    is "no change": there is no theta = 0 to shrink to, and an L1 penalty would mean ablation. Hence two steps.

    Parameters
    ----------
    support : (F,), not zero where a feature is clamped
    token_share : share of the pooled tokens that are steered
    """
    on = np.flatnonzero(support)
    goal = (problem.gap_vectors + problem.z[:, on] @ problem.W[on]).mean(0)
    values = np.zeros(len(problem.W))
    if len(on):
        values[on] = np.linalg.lstsq(token_share * problem.W[on].T, goal, rcond=None)[0]
    return values


def scaled_codes(mode: str, zbar: np.ndarray, token_share: float) -> np.ndarray:
    """Return what theta scales in each cell, float64 (n, F): its mean codes (n, F), or with `add` the share of its tokens."""
    return np.full_like(zbar, token_share) if mode == "add" else zbar


def recipe_shift(cached: CachedCells, sae: TopKSAE, theta: np.ndarray, mode: str, zbar: np.ndarray) -> np.ndarray:
    """Return what a recipe adds to the mean embeddings of some cached cells of mean codes zbar (n, F), float64 (n, D)."""
    return embedding_shift(theta, mode, zbar, sae.W_dec.detach().cpu().double().numpy(), cached.token_share)


def embedding_shift(theta: np.ndarray, mode: str, zbar: np.ndarray, W_dec: np.ndarray, token_share: float) -> np.ndarray:
    """Return what a recipe adds to the mean embeddings of cells, float64 (n, D).

    Parameters
    ----------
    theta : (F,); mode : multiply, add or clamp
    zbar : float64 (n, F), the cells' mean codes over the pooled tokens
    W_dec : float64 (F, D)
    token_share : share of the pooled tokens that are steered
    """
    if mode == "clamp":
        return np.asarray((theta * token_share - (theta != 0) * zbar) @ W_dec)
    return np.asarray((theta * scaled_codes(mode, zbar, token_share)) @ W_dec)
