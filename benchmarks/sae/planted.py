"""Tokens with a known dictionary, whose features are sparse and correlated, and how much of it another dictionary has.

Generator: F unit directions, Gaussian; features in groups of 8. Token n's feature f, of group g, fires where
sqrt(rho) u_ng + sqrt(1 - rho) e_nf exceeds its own quantile, u and e standard normal: within a group latent values correlate
by rho (0.6), between groups not at all. Firing rates are log-uniform over a factor of 10 with a mean of `active` features a
token; a firing feature's value is log-normal (sigma 0.3, median 1). x = codes @ directions + noise of 5 % of the squared norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

GROUP, RHO, SPREAD, NOISE = 8, 0.6, 10.0, 0.05
MATCHED = 0.9


class Planted(NamedTuple):
    """Tokens float32 (n, D) and the directions float32 (F, D), of length 1, that they are sums of."""

    tokens: np.ndarray
    truth: np.ndarray


def plant(n: int, width: int, n_true: int, active: float, seed: int, rows: int = 8192) -> Planted:
    """Return n tokens; made a few rows at a time, since codes are dense while they are drawn."""
    rng = np.random.default_rng(seed)
    truth = unit(rng.standard_normal((n_true, width), np.float32))
    rates = np.exp(rng.uniform(0, np.log(SPREAD), n_true))
    cuts = norm.isf(np.minimum(0.5, rates * active / rates.sum())).astype(np.float32)
    tokens = np.empty((n, width), np.float32)
    for start in range(0, n, rows):
        part = tokens[start : start + rows]
        codes = draw(rng, len(part), cuts)
        np.matmul(codes, truth, out=part)
        spread = np.sqrt(NOISE * np.square(part).sum(1).mean() / width)
        part += spread * rng.standard_normal(part.shape, np.float32)
    return Planted(tokens, truth)


def draw(rng: np.random.Generator, n: int, cuts: np.ndarray) -> np.ndarray:
    """Return codes float32 (n, F) of features that fire above their cuts (F,)."""
    latent = np.sqrt(1 - RHO) * rng.standard_normal((n, len(cuts)), np.float32)
    shared = np.sqrt(RHO) * rng.standard_normal((n, -(-len(cuts) // GROUP)), np.float32)
    latent += np.repeat(shared, GROUP, axis=1)[:, : len(cuts)]
    codes = np.zeros_like(latent)
    on = latent > cuts
    codes[on] = np.exp(0.3 * rng.standard_normal(on.sum(), np.float32))
    return codes


def recovery(truth: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Return how much of a planted dictionary (F, D) a learnt decoder (F', D) has.

    mmcs : mean over true features of their largest cosine with a learnt one; matched : share of true features whose partner
    in the best one-to-one assignment (Hungarian, by cosine) has a cosine above 0.9.
    """
    cosine = unit(truth) @ unit(rows).T
    one, other = linear_sum_assignment(-cosine)
    return {"mmcs": float(cosine.max(1).mean()), "matched": float((cosine[one, other] > MATCHED).sum() / len(truth))}


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows at length 1 (zero rows stay)."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
