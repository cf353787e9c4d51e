"""The latent objective, solved exactly: a structured lasso with a duality-gap certificate.

    minimise  (1/N) sum_c || e_c + (theta * zbar_c) W - mu ||^2 + lam ||theta||_1

With r the residual this is ||y - X theta||^2 + lam ||theta||_1, column f of X being zbar_cf W_f / sqrt(N). X (N D, F)
and its Gram matrix are never built: coordinate descent runs on the Gram matrix of a working set, and the full gradient
costs two products, O(N D F). Memory O(N F + F D) and the square of the working set; all in float64.

The certificate: nu = 2 s r with s = min(1, lam / (2 max|X'r|)) is dual feasible, and the gap between the primal and
-||nu||^2/4 + nu'y bounds the distance of the objective from the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

MAX_ROUNDS = 200


@dataclass(frozen=True)
class LassoFit:
    """One point of the path.

    Attributes
    ----------
    lam : weight of the penalty
    theta : float64 (F,), exact zeros
    objective : primal value
    gap : relative duality gap, (primal - dual) / primal
    """

    lam: float
    theta: np.ndarray
    objective: float
    gap: float


class LatentProblem:
    """The pooled steering problem.

    Parameters
    ----------
    zbar : (N, F) mean code of each cell over its valid gene tokens
    W_dec : (F, D) decoder
    embeddings : (N, D) cell embeddings e_c
    mu : (D,) mean target embedding
    learnable : bool (F,), the features that may move; default all
    """

    def __init__(
        self, zbar: np.ndarray, W_dec: np.ndarray, embeddings: np.ndarray, mu: np.ndarray, learnable: np.ndarray | None = None
    ) -> None:
        self.z = np.asarray(zbar, dtype=np.float64)
        self.W = np.asarray(W_dec, dtype=np.float64)
        self.n = len(self.z)
        self.gap_vectors = np.asarray(mu, np.float64) - np.asarray(embeddings, np.float64)
        self.y_square = float((self.gap_vectors**2).sum() / self.n)
        self.free = np.ones(len(self.W), bool) if learnable is None else np.asarray(learnable, bool)
        # a feature that is silent in every cell has an empty column
        self.diagonal = (self.z**2).sum(0) / self.n * (self.W**2).sum(1)
        self.free = self.free & (self.diagonal > 0)
        self.b = self._transpose(self.gap_vectors)

    @property
    def lam_max(self) -> float:
        """The smallest weight at which theta = 0 is optimal: 2 max |X'y|."""
        return float(2 * np.abs(self.b[self.free]).max(initial=0.0))

    def shift(self, theta: np.ndarray) -> np.ndarray:
        """Return what theta adds to each embedding, (N, D)."""
        on = np.flatnonzero(theta)
        return np.asarray((self.z[:, on] * theta[on]) @ self.W[on])

    def loss(self, theta: np.ndarray) -> float:
        """Return (1/N) sum_c || e_c(theta) - mu ||^2."""
        return float(((self.gap_vectors - self.shift(theta)) ** 2).sum() / self.n)

    def solve(self, lam: float, start: np.ndarray | None = None, *, tol: float = 1e-8) -> LassoFit:
        """Solve at one weight, to a relative duality gap of `tol`."""
        theta = np.zeros(len(self.W)) if start is None else np.array(start, dtype=np.float64)
        objective, gap = np.inf, np.inf
        for _ in range(MAX_ROUNDS):
            correlation, objective, gap = self._certificate(theta, lam)
            if gap <= tol:
                break
            working = self._working_set(theta, correlation, lam)
            gram = self._gram(working)
            inner = theta[working]
            _descend(gram, self.b[working], inner, lam / 2, 1e-14 * max(self.y_square, 1e-300), 10_000)
            theta[working] = inner
        return LassoFit(lam, theta, objective, gap)

    def path(self, lams: Sequence[float] | np.ndarray, *, tol: float = 1e-8) -> list[LassoFit]:
        """Solve at each weight, largest first, each from the one before."""
        fits: list[LassoFit] = []
        for lam in lams:
            fits.append(self.solve(float(lam), fits[-1].theta if fits else None, tol=tol))
        return fits

    def _transpose(self, residual: np.ndarray) -> np.ndarray:
        """X' r: (1/N) sum_c zbar_c * (W residual_c), (F,)."""
        return np.asarray(np.einsum("nf,nf->f", self.z, residual @ self.W.T) / self.n)

    def _certificate(self, theta: np.ndarray, lam: float) -> tuple[np.ndarray, float, float]:
        residual = self.gap_vectors - self.shift(theta)
        correlation = self._transpose(residual)
        square = float((residual**2).sum() / self.n)
        primal = square + lam * float(np.abs(theta).sum())
        largest = float(np.abs(correlation[self.free]).max(initial=0.0))
        scale = 1.0 if 2 * largest <= lam else lam / (2 * largest)
        inner = float((residual * self.gap_vectors).sum() / self.n)
        dual = 2 * scale * inner - scale**2 * square
        return correlation, primal, max(0.0, primal - dual) / max(primal, 1e-300)

    def _working_set(self, theta: np.ndarray, correlation: np.ndarray, lam: float) -> np.ndarray:
        """The support, and the worst violators of |X'r| <= lam / 2, twice as many as the support at the most."""
        support = np.flatnonzero(theta)
        excess = np.where(self.free & (theta == 0), np.abs(correlation) - lam / 2, -np.inf)
        violators = np.argsort(-excess)[: max(32, 2 * len(support))]
        return np.union1d(support, violators[excess[violators] > 0])

    def _gram(self, features: np.ndarray) -> np.ndarray:
        z, W = self.z[:, features], self.W[features]
        return np.ascontiguousarray((z.T @ z / self.n) * (W @ W.T))


@njit(cache=True)  # type: ignore[misc,unused-ignore]
def _descend(gram, b, theta, half_lam, tol, max_sweeps):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Cyclic coordinate descent on theta' gram theta - 2 b' theta + 2 half_lam |theta|, in place."""
    n = len(b)
    g = gram @ theta
    for _ in range(max_sweeps):
        worst = 0.0
        for j in range(n):
            if gram[j, j] <= 0.0:
                continue
            old = theta[j]
            rho = b[j] - g[j] + gram[j, j] * old
            if rho > half_lam:
                new = (rho - half_lam) / gram[j, j]
            elif rho < -half_lam:
                new = (rho + half_lam) / gram[j, j]
            else:
                new = 0.0
            if new != old:
                step = new - old
                for i in range(n):
                    g[i] += gram[i, j] * step
                theta[j] = new
                worst = max(worst, gram[j, j] * step * step)
        if worst <= tol:
            return
