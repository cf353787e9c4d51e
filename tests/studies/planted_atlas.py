"""Streams in which what tissues share, and what is each one's own, is known."""

from __future__ import annotations

import numpy as np

from steerpipe.activations.tokens import TokenPolicy, TokenSource

WIDTH, SHARED, PRIVATE, ACTIVE = 32, 12, 6, 3


class Planted(TokenSource):
    """Cells of 40 tokens; each token is ACTIVE of the tissue's directions, with noise."""

    def __init__(self, directions: np.ndarray, n_cells: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.n_cells, self.n_genes, self.width, self.policy = n_cells, 40, WIDTH, TokenPolicy()
        weights = np.zeros((n_cells * 40, len(directions)))
        for row in weights:
            row[rng.choice(len(directions), ACTIVE, replace=False)] = 1 + rng.random(ACTIVE)
        noise = 0.02 * rng.standard_normal((n_cells * 40, WIDTH))
        self._tokens = (weights @ directions + noise).astype(np.float32).reshape(n_cells, 40, WIDTH)

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        return [self._tokens[i] for i in ids]

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        return [np.arange(40)] * len(ids)


def two_tissues(shared: int = SHARED, private: int = PRIVATE, n_cells: int = 200) -> list[Planted]:
    """Two tissues of `shared` directions in common and `private` of their own each, all orthogonal."""
    basis = np.linalg.qr(np.random.default_rng(7).standard_normal((WIDTH, WIDTH)))[0]
    own = [basis[shared + private * t : shared + private * (t + 1)] for t in range(2)]
    return [Planted(np.concatenate([basis[:shared], some]), n_cells, t) for t, some in enumerate(own)]
