"""Energy distance, and means over cells and pairs of cells under bootstrap weights."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..errors import SteerError
from .distances import pairwise

LEAST_CELLS = 2


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Energy distance of two groups of cells, 2 E|x - y| - E|x - x'| - E|y - y'|, with Euclidean lengths.

    Unbiased: a cell is not paired with itself, so that two draws of one population are at 0 on average and it can be
    negative. Szekely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 143 (2013); the same as scperturb's `edist` with
    dist="euclidean" and sample_correct=True.

    Parameters
    ----------
    x, y : (n, D) and (m, D) cells, at least 2 each

    Raises
    ------
    SteerError : too few cells, a value that is not finite, or dimensions that differ
    """
    x, y = checked("the first group", x), checked("the second group", y)
    same_width(x, y)
    a, b = Cells(x - x.mean(0)), Cells(y - x.mean(0))
    return float(energy(pairs(a, b), pairs(a, a), pairs(b, b), a.once, b.once)[0])


class Cells:
    """One side's cells, summed over the units that are resampled: each cell, or its donor.

    units : (n,) index of each cell's donor among the donors of both sides; None where cells are units.
    """

    def __init__(self, points: np.ndarray, units: np.ndarray | None = None, n_units: int = 0) -> None:
        self.points, self.units = points, units
        self.n_units = n_units if units is not None else len(points)

    def per_unit(self, values: np.ndarray) -> np.ndarray:
        """Sum (n, ...) over each unit's cells, (units, ...)."""
        if self.units is None:
            return values
        out = np.zeros((self.n_units, *values.shape[1:]))
        np.add.at(out, self.units, values)
        return out

    @property
    def once(self) -> np.ndarray:
        """The weights of the cells as they are, (1, units)."""
        return np.ones((1, self.n_units))

    @cached_property
    def counts(self) -> np.ndarray:
        return self.per_unit(np.ones(len(self.points)))

    @cached_property
    def sums(self) -> np.ndarray:
        return self.per_unit(self.points)

    @cached_property
    def squares(self) -> np.ndarray:
        return self.per_unit((self.points**2).sum(1))

    def average(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Mean of (n,) under each row of weights (B, units), (B,)."""
        return np.asarray(weights @ self.per_unit(values) / (weights @ self.counts))

    def mean(self, weights: np.ndarray) -> np.ndarray:
        """Mean cell, (B, D)."""
        return np.asarray(weights @ self.sums / (weights @ self.counts)[:, None])

    def variance(self, weights: np.ndarray) -> np.ndarray:
        """Sum of every dimension's variance, ddof 1, (B,)."""
        n = weights @ self.counts
        return np.asarray((weights @ self.squares - n * (self.mean(weights) ** 2).sum(1)) / (n - 1))


class Pairs(NamedTuple):
    """Sums over pairs of cells, by unit, and numbers of pairs; `shared`: row i and column i are the same unit."""

    total: np.ndarray
    number: np.ndarray
    shared: bool

    def mean(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Mean under weights (B, units) of each side, (B,).

        Two copies of one unit are no pair, as a cell and itself are none; the pairs within a unit come along with each copy.
        """
        total, count = (self._form(block, rows, columns) for block in (self.total, self.number))
        return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))

    def _form(self, block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        out = ((rows @ block) * columns).sum(1)
        return np.asarray(out - (rows * (columns - 1)) @ np.diag(block) if self.shared else out)


def pairs(a: Cells, b: Cells, values: np.ndarray | None = None) -> Pairs:
    """Pairs of two groups, or of one with itself; their Euclidean distances unless other values (n, m) are given."""
    values = pairwise(a.points, b.points) if values is None else values
    count = np.ones(values.shape)
    if a is b:
        values, count = (block * (1 - np.eye(len(block))) for block in (values, count))
    total, count = (b.per_unit(a.per_unit(block).T).T for block in (values, count))
    return Pairs(total, count, shared=a.units is not None)


def energy(cross: Pairs, a: Pairs, b: Pairs, w_a: np.ndarray, w_b: np.ndarray) -> np.ndarray:
    """Energy distance (B,) from the pairs across and within, under weights (B, units) of each side."""
    return np.asarray(2 * cross.mean(w_a, w_b) - a.mean(w_a, w_a) - b.mean(w_b, w_b))


def checked(what: str, cells: np.ndarray) -> np.ndarray:
    """Cells (n, D) as float64, if they are enough and finite."""
    points = np.asarray(cells, np.float64)
    if points.ndim != 2 or len(points) < LEAST_CELLS:
        raise SteerError(f"{what} have shape {points.shape}: give a matrix of at least {LEAST_CELLS} cells.")
    if not np.isfinite(points).all():
        raise SteerError(f"{what} hold values that are not finite: leave those cells out.")
    return points


def same_width(a: np.ndarray, b: np.ndarray) -> None:
    """Raise SteerError unless two groups (n, D) and (m, D) have as many dimensions."""
    if a.shape[1] != b.shape[1]:
        raise SteerError(f"the two groups have {a.shape[1]} and {b.shape[1]} dimensions: take both from one space.")
