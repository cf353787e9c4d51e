"""The latent objective, solved exactly: a structured lasso with a duality-gap certificate.

    minimise  (1/N) sum_c || e_c + (theta * zbar_c) W - mu ||^2 + lam ||theta||_1

With r the residual this is ||y - X theta||^2 + lam ||theta||_1, column f of X being zbar_cf W_f / sqrt(N). Neither X
(N D, F) nor its Gram matrix H = (W W') o (zbar' zbar) / N is built: coordinate descent runs on a working set, whose rows of
H are made on demand and kept, so that the full gradient, b - H theta, costs next to nothing and a whole path asks for
hardly more rows than its last point. Cost: O(N D F) for b and O((N + D) F) a row; memory O(N F + F D) and the rows; all in
float64.

The certificate: nu = 2 s r with s = min(1, lam / (2 max|X'r|)) is dual feasible, and the gap between the primal and
-||nu||^2/4 + nu'y bounds the distance of the objective from the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

MAX_ROUNDS = 1000
MAX_SWEEPS = 10_000
AHEAD = 0.9


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
        self.diagonal = np.einsum("nf,nf->f", self.z, self.z) / self.n * np.einsum("fd,fd->f", self.W, self.W)
        self.free = self.free & (self.diagonal > 0)
        self.b = self._transpose(self.gap_vectors)
        self._on = np.flatnonzero(self.free)
        self._z, self._W = (self.z, self.W) if self.free.all() else (self.z[:, self._on], self.W[self._on])
        self._rows = np.empty((0, len(self._on)))
        self._row_of = np.full(len(self._on), -1)
        self._n_rows = 0

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

    def value(self, theta: np.ndarray) -> float:
        """Return the loss, as the objectives through the model do."""
        return self.loss(theta)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient, -2 X'r, (F,)."""
        residual = self.gap_vectors - self.shift(theta)
        return float((residual**2).sum() / self.n), -2 * self._transpose(residual)

    def certificate(self, theta: np.ndarray, lam: float) -> tuple[float, float]:
        """Return the objective and the relative duality gap of any theta (F,) that keeps to the learnable features."""
        loss, gradient = self.value_and_gradient(theta)
        return _gap(loss, self.y_square - float(self.b @ theta), -gradient[self.free] / 2, lam, float(np.abs(theta).sum()))

    def solve(self, lam: float, start: np.ndarray | None = None, *, tol: float = 1e-8) -> LassoFit:
        """Solve at one weight, to a relative duality gap of `tol`."""
        theta = np.zeros(len(self._on)) if start is None else np.asarray(start, dtype=np.float64)[self._on]
        objective, gap = np.inf, np.inf
        b = self.b[self._on]
        for _ in range(MAX_ROUNDS):
            support = np.flatnonzero(theta)
            moved = self._gram_times(theta, support)
            inner = float(b @ theta)
            loss = self.y_square - 2 * inner + float(moved @ theta)
            correlation = b - moved
            objective, gap = _gap(loss, self.y_square - inner, correlation, lam, float(np.abs(theta).sum()))
            if gap <= tol:
                break
            working = _working_set(support, correlation, lam)
            numbers = self._numbers(working)
            gram = self._rows[np.ix_(numbers, working)]
            values = theta[working]
            _descend(gram, b[working], values, lam / 2, 1e-7 * tol * objective, MAX_SWEEPS)
            theta[working] = values
        out = np.zeros(len(self.W))
        out[self._on] = theta
        return LassoFit(lam, out, objective, gap)

    def path(self, lams: Sequence[float] | np.ndarray, *, tol: float = 1e-8) -> list[LassoFit]:
        """Solve at each weight, largest first, each from the one before."""
        fits: list[LassoFit] = []
        for lam in lams:
            fits.append(self.solve(float(lam), fits[-1].theta if fits else None, tol=tol))
        return fits

    def refit(self, theta: np.ndarray) -> np.ndarray:
        """Return least squares on the support of theta (F,): without the penalty, hence without its shrinkage.

        Where the support has more features than the data tell apart, the shortest of the solutions.
        """
        support = np.flatnonzero(theta)
        z, W = self.z[:, support], self.W[support]
        out = np.zeros(len(self.W))
        out[support] = np.linalg.lstsq((z.T @ z / self.n) * (W @ W.T), self.b[support], rcond=None)[0]
        return out

    def _transpose(self, residual: np.ndarray) -> np.ndarray:
        """X' r: (1/N) sum_c zbar_c * (W residual_c), (F,)."""
        return np.asarray(np.einsum("nf,nf->f", self.z, residual @ self.W.T) / self.n)

    def _gram_times(self, theta: np.ndarray, support: np.ndarray) -> np.ndarray:
        """H theta, (n_free,)."""
        numbers = self._numbers(support)
        coefficients = np.zeros(self._n_rows)
        coefficients[numbers] = theta[support]
        return np.asarray(coefficients @ self._rows[: self._n_rows])

    def _numbers(self, features: np.ndarray) -> np.ndarray:
        """Return which of the kept rows of H are those of some free features, making the missing ones."""
        new = features[self._row_of[features] < 0]
        if len(new):
            needed = self._n_rows + len(new)
            if needed > len(self._rows):
                grown = np.empty((max(needed, 2 * len(self._rows)), len(self._on)))
                grown[: self._n_rows] = self._rows[: self._n_rows]
                self._rows = grown
            rows = self._rows[self._n_rows : needed]
            np.matmul(self._W[new], self._W.T, out=rows)
            rows *= (self._z[:, new].T / self.n) @ self._z
            self._row_of[new] = np.arange(self._n_rows, needed)
            self._n_rows = needed
        return np.asarray(self._row_of[features])


def _gap(loss: float, inner: float, correlation: np.ndarray, lam: float, l1: float) -> tuple[float, float]:
    """Return primal and relative gap, from ||r||^2, r'y and X'r on the features that may move."""
    largest = float(np.abs(correlation).max(initial=0.0))
    scale = 1.0 if 2 * largest <= lam else lam / (2 * largest)
    primal = loss + lam * l1
    dual = 2 * scale * inner - scale**2 * loss
    return primal, max(0.0, primal - dual) / max(primal, 1e-300)


def _working_set(support: np.ndarray, correlation: np.ndarray, lam: float) -> np.ndarray:
    """The support, and the worst violators of |X'r| <= lam / 2 or nearly so, as many as the support at the most."""
    excess = np.abs(correlation) - AHEAD * lam / 2  # rows of H are cheaper by the dozen
    excess[support] = -np.inf
    n = min(max(16, len(support)), len(excess))
    violators = np.argpartition(-excess, n - 1)[:n] if n < len(excess) else np.arange(n)
    return np.union1d(support, violators[excess[violators] > 0])


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
                    g[i] += gram[j, i] * step
                theta[j] = new
                worst = max(worst, gram[j, j] * step * step)
        if worst <= tol:
            return
