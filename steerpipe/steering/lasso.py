"""The latent objective, solved exactly: a structured lasso with a duality-gap certificate.

    population   minimise  || mean_c e_c(theta) - mu ||^2 + lam ||theta||_1
    cell         minimise  (1/N) sum_c || e_c(theta) - mu ||^2 + lam ||theta||_1

with e_c(theta) = e_c + (theta * zbar_c) W and, where there are bounds, lo <= theta_f <= hi. The population form is the cell
form of one pseudo-cell, whose mean code and embedding are the means over the cells. Under a metric M (D, D), W and mu - e_c
are multiplied by it, and the distances are those after it.

With r the residual this is ||y - X theta||^2 + lam ||theta||_1, column f of X being zbar_cf W_f / sqrt(N). Neither X
(N D, F) nor its Gram matrix H = (W W') o (zbar' zbar) / N is built: coordinate descent runs on a working set, whose rows of
H are made on demand and kept, so that the full gradient, b - H theta, costs next to nothing and a whole path asks for
hardly more rows than its last point. Cost: O(N D F) for b and O((N + D) F) a row; memory O(N F + F D) and the rows; all in
float64.

The certificate: nu = 2 s r has the dual value 2 s r'y - s^2 ||r||^2 - sum_f h*(2 s X_f'r), h* being the conjugate of
lam |t| on [lo, hi]: max(0, hi (u - lam), lo (u + lam)), which on an unbounded side is infinite beyond lam. s is the largest
number up to 1 that keeps those sides finite; the gap between primal and dual bounds the distance of the objective from the
optimum (Fercoq, Gramfort and Salmon 2015 for the lasso).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from ..errors import unknown
from .bounds import Bounds, limits
from .descent import descend

MAX_ROUNDS = 1000
MAX_SWEEPS = 1000
AHEAD = 0.9
RANK, RIDGE = 1e-12, 1e-13
MATCHES = ("population", "cell")


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
    mu : (D,) mean target embedding, or (N, D) where each cell has a target of its own
    learnable : bool (F,), the features that may move; default all
    match : population brings the cells' mean to mu, cell each cell
    metric : (D, D) by which distances are measured, see metric.py; default Euclidean
    bounds : lowest and highest theta_f, None where there is none

    Attributes
    ----------
    n : number of cells that the problem sees: N, or 1 with population
    z : float64 (n, F)
    W, gap_vectors : float64 (F, D) and (n, D), the decoder and mu - e, in the metric
    y_square : loss at theta = 0

    Raises
    ------
    SteerError
        where the bounds forbid theta = 0
    """

    def __init__(
        self,
        zbar: np.ndarray,
        W_dec: np.ndarray,
        embeddings: np.ndarray,
        mu: np.ndarray,
        learnable: np.ndarray | None = None,
        *,
        match: str = "population",
        metric: np.ndarray | None = None,
        bounds: Bounds = (None, None),
    ) -> None:
        if match not in MATCHES:
            raise unknown("match", match, MATCHES)
        self.match, self.bounds = match, limits(bounds)
        self.z = np.asarray(zbar, dtype=np.float64)
        self.W_dec = np.asarray(W_dec, dtype=np.float64)
        gaps = np.asarray(mu, np.float64) - np.asarray(embeddings, np.float64)
        if match == "population":
            self.z, gaps = self.z.mean(0, keepdims=True), gaps.mean(0, keepdims=True)
        self.W: np.ndarray = self.W_dec if metric is None else np.asarray(self.W_dec @ metric)
        self.gap_vectors = np.asarray(gaps if metric is None else gaps @ metric)
        self.metric = metric
        self.n = len(self.z)
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
        """The smallest weight at which theta = 0 is optimal: 2 max |X'y|, of the directions that the bounds allow."""
        return float(2 * _pull(self.b[self.free], *self.bounds).max(initial=0.0))

    def shift(self, theta: np.ndarray) -> np.ndarray:
        """Return what theta adds to each embedding, or to their mean with population: (n, D), in no metric."""
        on = np.flatnonzero(theta)
        return np.asarray((self.z[:, on] * theta[on]) @ self.W_dec[on])

    def loss_of_shift(self, shift: np.ndarray) -> float:
        """Return the loss when each embedding, or their mean with population, is moved by a row of shift (n, D)."""
        moved = shift if self.metric is None else shift @ self.metric
        return float(((self.gap_vectors - moved) ** 2).sum() / self.n)

    def loss(self, theta: np.ndarray) -> float:
        """Return (1/n) sum_c || e_c(theta) - mu ||^2, in the metric."""
        return float((self._residual(theta) ** 2).sum() / self.n)

    def value(self, theta: np.ndarray) -> float:
        """Return the loss, as the objectives through the model do."""
        return self.loss(theta)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient, -2 X'r, (F,)."""
        residual = self._residual(theta)
        return float((residual**2).sum() / self.n), -2 * self._transpose(residual)

    def certificate(self, theta: np.ndarray, lam: float) -> tuple[float, float]:
        """Return the objective and the relative duality gap of any theta (F,) of learnable features within the bounds."""
        loss, gradient = self.value_and_gradient(theta)
        inner, l1 = self.y_square - float(self.b @ theta), float(np.abs(theta).sum())
        return _gap(loss, inner, -gradient[self.free] / 2, lam, l1, *self.bounds)

    def solve(
        self, lam: float, start: np.ndarray | None = None, *, tol: float = 1e-8, without: Sequence[int] | np.ndarray = ()
    ) -> LassoFit:
        """Solve at one weight, to a relative duality gap of `tol`.

        Parameters
        ----------
        start : (F,) where to begin, a neighbour's solution for a warm start
        without : features that are kept at 0, as if they were not learnable
        """
        lo, hi = self.bounds
        theta = np.zeros(len(self._on)) if start is None else np.clip(np.asarray(start, np.float64)[self._on], lo, hi)
        kept = ~np.isin(self._on, without)
        theta *= kept
        objective, gap = np.inf, np.inf
        b = self.b[self._on]
        for _ in range(MAX_ROUNDS):
            last = gap
            support = np.flatnonzero(theta)
            moved = self._gram_times(theta, support)
            inner = float(b @ theta)
            loss = self.y_square - 2 * inner + float(moved @ theta)
            correlation = (b - moved) * kept
            objective, gap = _gap(loss, self.y_square - inner, correlation, lam, float(np.abs(theta).sum()), lo, hi)
            if gap <= tol:
                break
            working = _working_set(support, _pull(correlation, lo, hi), lam)
            numbers = self._numbers(working)
            gram = self._rows[np.ix_(numbers, working)]
            values = theta[working]
            descend(gram, b[working], values, lam / 2, lo, hi, 1e-7 * tol * objective, MAX_SWEEPS)
            if gap > last / 2:  # as many features as dimensions: the columns are nearly dependent, and descent crawls
                _polish(gram, b[working], values, lam / 2, lo, hi)
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
        """Return least squares on the support of theta (F,), within the bounds: no penalty, hence no shrinkage.

        Where the support has more features than the data tell apart, the shortest of the solutions.
        """
        support = np.flatnonzero(theta)
        out = np.zeros(len(self.W))
        if len(support):
            z, W = self.z[:, support], self.W[support]
            values, vectors = np.linalg.eigh((z.T @ z / self.n) * (W @ W.T))
            told = values > RANK * values[-1]  # the directions that the data tell apart
            root = np.sqrt(values[told])
            design, goal = root[:, None] * vectors[:, told].T, vectors[:, told].T @ self.b[support] / root
            out[support] = lsq_linear(design, goal, self.bounds, method="bvls", tol=1e-12).x
        return out

    def cosines(self, features: np.ndarray) -> np.ndarray:
        """Return the cosines between the columns of X of some features (k,) and of all, (k, F); 0 where one cannot move."""
        out = np.zeros((len(features), len(self.W)))
        dots = (self.W[features] @ self.W[self._on].T) * (self.z[:, features].T @ self.z[:, self._on] / self.n)
        scale = np.sqrt(self.diagonal)
        out[:, self._on] = dots / np.maximum(scale[features, None] * scale[self._on], 1e-300)
        return out

    def _residual(self, theta: np.ndarray) -> np.ndarray:
        """mu - e_c(theta) in the metric, (n, D)."""
        on = np.flatnonzero(theta)
        return np.asarray(self.gap_vectors - (self.z[:, on] * theta[on]) @ self.W[on])

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


def _pull(correlation: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """How strongly X'r pulls a feature that is at 0 in a direction that the bounds allow."""
    return np.asarray(np.maximum(correlation if hi > 0 else 0.0, -correlation if lo < 0 else 0.0))


def _gap(
    loss: float, inner: float, correlation: np.ndarray, lam: float, l1: float, lo: float, hi: float
) -> tuple[float, float]:
    """Return primal and relative gap, from ||r||^2, r'y and X'r on the features that may move."""
    up, down = float(correlation.max(initial=0.0)), float(-correlation.min(initial=0.0))
    largest = max(up if np.isinf(hi) else 0.0, down if np.isinf(lo) else 0.0)
    scale = 1.0 if 2 * largest <= lam else lam / (2 * largest)
    primal = loss + lam * l1
    dual = 2 * scale * inner - scale**2 * loss
    if np.isfinite(hi):
        dual -= hi * float(np.maximum(2 * scale * correlation - lam, 0.0).sum())
    if np.isfinite(lo):
        dual += lo * float(np.maximum(-2 * scale * correlation - lam, 0.0).sum())
    return primal, max(0.0, primal - dual) / max(primal, 1e-300)


def _working_set(support: np.ndarray, pull: np.ndarray, lam: float) -> np.ndarray:
    """The support, and the worst violators of |X'r| <= lam / 2 or nearly so, as many as the support at the most."""
    excess = pull - AHEAD * lam / 2  # rows of H are cheaper by the dozen
    excess[support] = -np.inf
    n = min(max(16, len(support)), len(excess))
    violators = np.argpartition(-excess, n - 1)[:n] if n < len(excess) else np.arange(n)
    return np.union1d(support, violators[excess[violators] > 0])


def _polish(gram: np.ndarray, b: np.ndarray, theta: np.ndarray, half_lam: float, lo: float, hi: float) -> None:
    """Newton steps on the features that are neither 0 nor at a bound, each up to the first that would get there, in place.

    The objective is quadratic as long as no sign changes, so that a step falls, and a whole one ends at the optimum of the
    signs. A ridge, of the size of rounding, makes the step defined where columns are dependent.
    """
    for _ in range(len(theta)):
        on = np.flatnonzero((theta != 0) & (theta > lo) & (theta < hi))
        if not len(on):
            return
        slope = gram[on] @ theta - b[on] + half_lam * np.sign(theta[on])
        block = gram[np.ix_(on, on)]
        move = -np.linalg.solve(block + RIDGE * np.trace(block) * np.eye(len(on)), slope)
        old, end = theta[on], np.where(theta[on] * move < 0, 0.0, np.where(move > 0, hi, lo))
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(move != 0, (end - old) / move, np.inf)
        first = int(room.argmin())
        theta[on] = old + min(1.0, room[first]) * move
        if room[first] > 1:
            return
        theta[on[first]] = end[first]
