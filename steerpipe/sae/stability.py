"""Do two trainings find the same features? Decoder rows matched one to one, their codes correlated, with controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment

from ..activations.tokens import TokenSource
from .baselines import FeatureDictionary, own_batches

COSINE, CORRELATION = 0.7, 0.5
"""Of decoder rows, and of codes over held-out tokens: from both on, a feature of another dictionary is the same feature."""
SPAN = 0.9
"""Share of the variance of what unmatched features add to the stream, whose principal directions are their span."""


@dataclass(frozen=True)
class Match:
    """Features of dictionary a matched to features of dictionary b.

    Attributes
    ----------
    a, b : int64 (n,), n the smaller number of features; a[i] goes with b[i]
    similarity : float64 (n,) of each pair
    best : float64 (F_a,), each a-feature's largest similarity with any b-feature
    """

    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    best: np.ndarray

    def row(self, threshold: float) -> dict[str, float]:
        """Return the mean matched similarity, the mean best one (MMCS for cosines), the share of pairs above a threshold."""
        return {
            "matched": float(self.similarity.mean()),
            "mmcs": float(self.best.mean()),
            "share_above": float((self.similarity > threshold).mean()),
        }


@dataclass(frozen=True)
class Recurrence:
    """Which features of two dictionaries are in the other one too, on the tokens of some cells.

    Attributes
    ----------
    pairs : int64 (n, 2), features of a and of b of decoder cosine >= COSINE and code correlation >= CORRELATION
    cosine, correlation : float64 (n,) of each pair
    energy_a, energy_b : float64 (F,), mean of z^2 |W_dec|^2 over the tokens: what a feature adds to the stream
    fires_a, fires_b : bool (F,), that any of the tokens activates
    subspace : mean squared cosine of the principal angles between the spans of the unmatched features of a and b, the span
        being the principal directions that hold SPAN of the variance of what they add to the stream; NaN where there is none
    chance : the same of two random subspaces of those sizes
    """

    pairs: np.ndarray
    cosine: np.ndarray
    correlation: np.ndarray
    energy_a: np.ndarray
    energy_b: np.ndarray
    fires_a: np.ndarray
    fires_b: np.ndarray
    subspace: float
    chance: float

    @property
    def a(self) -> np.ndarray:
        """bool (F_a,): features of a that b has."""
        return _marked(self.pairs[:, 0], len(self.energy_a))

    @property
    def b(self) -> np.ndarray:
        """bool (F_b,): features of b that a has."""
        return _marked(self.pairs[:, 1], len(self.energy_b))

    def turned(self) -> Recurrence:
        """Return the same with a and b in each other's place."""
        return replace(
            self,
            pairs=self.pairs[:, ::-1],
            energy_a=self.energy_b,
            energy_b=self.energy_a,
            fires_a=self.fires_b,
            fires_b=self.fires_a,
        )

    def row(self) -> dict[str, float]:
        """Return the share of firing features, and of energy, that recur (mean over both sides), and the subspace's figures."""
        sides = ((self.a, self.energy_a, self.fires_a), (self.b, self.energy_b, self.fires_b))
        return {
            "recur": float(np.mean([found[fires].mean() for found, _, fires in sides])),
            "recur_energy": float(np.mean([energy[found].sum() / energy.sum() for found, energy, _ in sides])),
            "subspace": self.subspace,
            "subspace_chance": self.chance,
        }


def cosines(a_FD: np.ndarray, b_FD: np.ndarray) -> np.ndarray:
    """Return float64 (F_a, F_b), the cosine of every pair of decoder rows, signs kept."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a_FD.astype(float), b_FD.astype(float)))
    return np.asarray(a @ b.T)


def ochiai(a_FG: sp.csr_matrix, b_FG: sp.csr_matrix) -> np.ndarray:
    """Return float64 (F_a, F_b), |A n B| / sqrt(|A| |B|) of every pair of gene sets (0/1 rows); 0 for an empty set."""
    sizes = np.sqrt(np.outer(a_FG.sum(1), b_FG.sum(1)))
    return np.asarray((a_FG @ b_FG.T).toarray() / np.maximum(sizes, 1))


def match(similarity: np.ndarray) -> Match:
    """Match rows to columns one to one for the largest total similarity (the Hungarian problem).

    Time: up to O(F^3), 0.1 s at F 1,024 and minutes at 10,000; memory F^2 floats of 8 bytes, a few times.
    """
    a, b = linear_sum_assignment(similarity, maximize=True)
    return Match(a, b, similarity[a, b], similarity.max(1))


def energy_weighted(best: np.ndarray, energy: np.ndarray) -> float:
    """Return the mean best cosine (F,) weighted by what each feature adds to the stream (F,): energy-weighted MMCS."""
    return float(best @ energy / energy.sum())


def recurrence(
    a: FeatureDictionary, b: FeatureDictionary, source: TokenSource, cells: np.ndarray, *, batch_size: int = 8192
) -> Recurrence:
    """Find the features that two dictionaries have in common by direction and by when they fire, in two passes over tokens.

    Parameters
    ----------
    cells : held-out cells, whose gene tokens the codes are correlated over
    batch_size : tokens at a time; of those all codes are held, and of the rest none
    """
    W = [one.W_dec.detach().cpu().numpy() for one in (a, b)]
    cosine = cosines(*W)
    near = np.argwhere(cosine >= COSINE)
    i, j = near.T
    n, product = 0, np.zeros(len(near))
    total, square = ([np.zeros(len(rows)) for rows in W] for _ in range(2))
    for codes in _codes((a, b), source, cells, batch_size):
        n += codes[0].shape[0]
        for side, Z in enumerate(codes):
            total[side] += np.asarray(Z.sum(0)).ravel()
            square[side] += np.asarray(Z.multiply(Z).sum(0)).ravel()
        product += np.asarray(codes[0].tocsc()[:, i].multiply(codes[1].tocsc()[:, j]).sum(0)).ravel()
    mean = [s / n for s in total]
    variance = [s / n - m**2 for s, m in zip(square, mean, strict=True)]
    scale = np.sqrt(np.maximum(variance[0][i] * variance[1][j], 1e-300))
    correlation = np.where(scale > 1e-12, (product / n - mean[0][i] * mean[1][j]) / scale, 0.0)
    same = correlation >= CORRELATION
    pairs = near[same]
    energy = [s / n * np.square(rows).sum(1) for s, rows in zip(square, W, strict=True)]
    alone = [~_marked(pairs[:, side], len(W[side])) for side in range(2)]
    spans = _spans((a, b), W, alone, source, cells, batch_size)
    subspace, chance = overlap(*spans)
    fires = [s > 0 for s in square]
    return Recurrence(
        pairs, cosine[pairs[:, 0], pairs[:, 1]], correlation[same], energy[0], energy[1], fires[0], fires[1], subspace, chance
    )


def overlap(a_rD: np.ndarray, b_rD: np.ndarray) -> tuple[float, float]:
    """Return the mean squared cosine of the principal angles between two spans (orthonormal rows), and its expectation.

    The expectation is of a random subspace of the larger one's dimension against a fixed one: that dimension over D.
    """
    r = min(len(a_rD), len(b_rD))
    if r == 0:
        return float("nan"), float("nan")
    return float(np.square(a_rD @ b_rD.T).sum() / r), max(len(a_rD), len(b_rD)) / a_rD.shape[1]


def _spans(
    dictionaries: tuple[FeatureDictionary, FeatureDictionary],
    W: list[np.ndarray],
    chosen: list[np.ndarray],
    source: TokenSource,
    cells: np.ndarray,
    batch_size: int,
) -> list[np.ndarray]:
    """Return, of each dictionary, the principal directions (r, D) that hold SPAN of what its chosen features add."""
    D = W[0].shape[1]
    second, first, n = [np.zeros((D, D)) for _ in W], [np.zeros(D) for _ in W], 0
    for codes in _codes(dictionaries, source, cells, batch_size):
        n += codes[0].shape[0]
        for side, Z in enumerate(codes):
            added = Z @ (W[side] * chosen[side][:, None])
            second[side] += added.T @ added
            first[side] += added.sum(0, dtype=np.float64)
    spans = []
    for side in range(2):
        values, vectors = np.linalg.eigh(second[side] / n - np.outer(first[side], first[side]) / n**2)
        values, vectors = np.maximum(values[::-1], 0), vectors.T[::-1]
        share = np.cumsum(values) / max(values.sum(), 1e-300)
        spans.append(vectors[: int(np.searchsorted(share, SPAN)) + 1] if values.sum() > 0 else vectors[:0])
    return spans


def _codes(
    dictionaries: tuple[FeatureDictionary, ...], source: TokenSource, cells: np.ndarray, batch_size: int
) -> Iterator[list[sp.csr_matrix]]:
    """Yield each dictionary's codes of a batch of tokens, as CSR (batch, F) float32."""
    with torch.no_grad():
        for x, own in own_batches(dictionaries, source, cells, batch_size):
            made = []
            for one in own:
                codes = one.encode(x.to(one.W_dec.device))
                k = codes.values.shape[-1]
                values, columns = codes.values.cpu().numpy().ravel(), codes.indices.cpu().numpy().ravel()
                starts = np.arange(0, len(values) + 1, k)
                made.append(sp.csr_matrix((values, columns, starts), shape=(len(x), one.n_features)))
            yield made


def _marked(at: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(n, bool)
    found[at] = True
    return found
