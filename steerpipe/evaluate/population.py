"""Did the population change identity? Scores of steered cells as a population, in one space.

Build a `Population` once per space, from the unsteered cells, the real target cells and a `Probe` fitted on other cells;
`values` then scores steered cells fast enough for a permutation null, `intervals` bootstraps the same scores, and `floor`
is what arrival looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import SteerError, unknown
from .distances import nearest_mean
from .energy import LEAST_CELLS, Cells, Pairs, checked, energy, energy_distance, pairs, same_width
from .probe import Probe, c2st_scores, fit_probe

__all__ = ["SCORES", "HeadlineScore", "PermutationTest", "Population", "Probe", "energy_distance", "fit_probe", "permutation_p"]

NEIGHBOURS = 10
LEAST_SHARE = 0.001
"""The E-distance's unit is at least this share of the mean distance within the target cells."""
HALVINGS = 20
LEAST_DONORS = 3
TINY = 1e-12


@dataclass(frozen=True)
class HeadlineScore:
    """A score of a population.

    Attributes
    ----------
    name : key in SCORES and in what `Population` returns
    better : lower, higher, or near_one
    about : what the number says, in a line
    format : format specification that prints the value
    """

    name: str
    better: str
    about: str
    format: str


SCORES = {
    score.name: score
    for score in (
        HeadlineScore(
            "edistance",
            "lower",
            "E-distance to the target over that of the unsteered cells, minus 1: -100 % is arrival",
            "+.0%",
        ),
        HeadlineScore(
            "gap", "higher", "mean shift along the way to the target's mean: 0 nothing, 1 arrived, above 1 past it", ".2f"
        ),
        HeadlineScore(
            "orthogonal", "lower", "mean shift across the way to the target's mean, over the length of the way", ".2f"
        ),
        HeadlineScore("probe", "higher", "mean p(target) by a logistic regression that tells source from target", ".2f"),
        HeadlineScore("probe_share", "higher", "share of cells that the logistic regression calls target", ".0%"),
        HeadlineScore(
            "c2st", "lower", "AUC of a classifier that tells steered from real target cells: .5 is indistinguishable", ".2f"
        ),
        HeadlineScore(
            "spread", "near_one", "total variance over that of the unsteered cells: 1 kept, below it contracted", ".2f"
        ),
        HeadlineScore(
            "nearest", "lower", "mean distance to the 10 nearest target cells over that of the unsteered cells, minus 1", "+.0%"
        ),
    )
}


@dataclass(frozen=True, eq=False)
class Population:
    """What one space knows before any recipe is scored.

    Attributes
    ----------
    before : (N, D) unsteered held-out source cells
    target : (M, D) real held-out target cells
    probe : fitted on other cells
    groups_before, groups_target : (N,) and (M,) donor of each cell, or None
    seed : deals the cells to the folds of the C2ST

    Raises
    ------
    SteerError : fewer than 2 cells on a side, a value that is not finite, or dimensions or lengths that differ
    """

    before: np.ndarray
    target: np.ndarray
    probe: Probe
    groups_before: np.ndarray | None = None
    groups_target: np.ndarray | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        before, target = checked("the unsteered cells", self.before), checked("the target cells", self.target)
        same_width(before, target)
        if len(self.probe.coef) != before.shape[1]:
            raise SteerError(
                f"the probe has {len(self.probe.coef)} dimensions, the cells {before.shape[1]}: fit it in their space."
            )
        for cells, groups in ((before, self.groups_before), (target, self.groups_target)):
            if groups is not None and len(groups) != len(cells):
                raise SteerError(f"{len(groups)} donors were given for {len(cells)} cells: give each cell's donor, or None.")

    @property
    def resampled(self) -> str:
        """Return donors where both sides have three or more of them, cells otherwise."""
        groups = (self.groups_before, self.groups_target)
        return "donors" if all(g is not None and len(np.unique(g)) >= LEAST_DONORS for g in groups) else "cells"

    def values(self, after: np.ndarray) -> dict[str, float]:
        """Every score of the steered cells (N, D), which are the unsteered ones in the same order.

        - edistance: (after - before) / before, of the E-distances to the target. Where source and target hardly differ, the
          denominator is noise and may be negative: it is taken as at least 0.1 % of the mean distance within the target cells.
          No change is then still 0 and the score is finite, the same unit for every recipe, but -1 is no longer arrival:
          read it beside its permutation null.
        - gap, orthogonal: the mean shift along the way from source mean to target mean, and across it, over its length.
        - probe, probe_share: mean p(target), and share of cells with p(target) > .5.
        - c2st: AUC over out-of-fold scores of a logistic regression (standardised, L2, C = 0.1, 5 stratified folds) that tells
          steered from target cells. Below .5 by chance where they are alike.
        - spread: sum of the dimensions' variances (ddof 1) over that of the unsteered cells.
        - nearest: mean distance to the 10 nearest target cells over that of the unsteered cells, minus 1.

        Raises
        ------
        SteerError : another shape than the unsteered cells, or a value that is not finite
        """
        return self._values(self._steered(after))

    def intervals(self, after: np.ndarray, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % percentile bootstrap interval of every score: (low, high).

        A source cell is resampled with its steered self. Donors, if they are resampled, bring their cells of both sides along.
        Held as they are: the probe, the C2ST's out-of-fold scores, and for `nearest` the target cells.
        """
        rng = np.random.default_rng(seed)
        if self.resampled == "donors":
            source = target = self._donor_draws(n_bootstrap, rng)
        else:
            sizes = len(self.before), len(self.target)
            source, target = (rng.multinomial(n, np.full(n, 1 / n), n_bootstrap).astype(np.float64) for n in sizes)
        draws = self._scores(self._steered(after), source, source, target)
        return {name: (float(lo), float(hi)) for name, d in draws.items() for lo, hi in [np.nanpercentile(d, [2.5, 97.5])]}

    def floor(self, seed: int = 0) -> dict[str, float]:
        """Scores of one random half of the target cells in place of the steered ones, with the other half as target.

        The mean over 20 halvings; NaN with fewer than 4 target cells. `nearest` is to half as many cells, before and after.
        """
        if len(self.target) < 2 * LEAST_CELLS:
            return dict.fromkeys(SCORES, np.nan)
        rng, rows = np.random.default_rng(seed), []
        for _ in range(HALVINGS):
            order = rng.permutation(len(self.target))
            arrived, rest = np.array_split(self.target[order], 2)
            half = Population(self.before, rest, self.probe, seed=self.seed)
            rows.append(half._values(Cells(np.asarray(arrived, np.float64) - half._origin)))
        return {name: float(np.mean([row[name] for row in rows])) for name in SCORES}

    @cached_property
    def _origin(self) -> np.ndarray:
        """Taken off every cell, (D,): squared lengths then lose no digits to a common offset."""
        return np.asarray(np.asarray(self.before, np.float64).mean(0))

    @cached_property
    def _donors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Donors of both sides, and the index among them of each unsteered and each target cell."""
        groups = [np.asarray(g).astype(str) for g in (self.groups_before, self.groups_target)]
        names, codes = np.unique(np.concatenate(groups), return_inverse=True)
        return names, codes[: len(self.before)], codes[len(self.before) :]

    def _donor_draws(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """How often each donor is drawn, (n, donors): among those of both sides, of the source alone, of the target alone."""
        names, source, target = self._donors
        sides = np.isin(np.arange(len(names)), source) + 2 * np.isin(np.arange(len(names)), target)
        draws = np.zeros((n, len(names)))
        for side in np.unique(sides):
            stratum = np.flatnonzero(sides == side)
            draws[:, stratum] = rng.multinomial(len(stratum), np.full(len(stratum), 1 / len(stratum)), n)
        return draws

    def _cells(self, points: np.ndarray, side: int) -> Cells:
        centred = np.asarray(points, np.float64) - self._origin
        if self.resampled == "cells":
            return Cells(centred)
        return Cells(centred, self._donors[1 + side], len(self._donors[0]))

    def _steered(self, after: np.ndarray) -> Cells:
        cells = checked("the steered cells", after)
        if cells.shape != np.shape(self.before):
            raise SteerError(
                f"steered cells {cells.shape} are not the unsteered ones {np.shape(self.before)}: give them in their order."
            )
        return self._cells(cells, 0)

    @cached_property
    def _before(self) -> Cells:
        return self._cells(self.before, 0)

    @cached_property
    def _target(self) -> Cells:
        return self._cells(self.target, 1)

    @cached_property
    def _known(self) -> tuple[Pairs, Pairs, Pairs]:
        """Pairs that no recipe changes: unsteered with target, unsteered with themselves, target with themselves."""
        return pairs(self._before, self._target), pairs(self._before, self._before), pairs(self._target, self._target)

    @cached_property
    def _nearest_before(self) -> np.ndarray:
        return self._nearest(self._before)

    def _nearest(self, cells: Cells) -> np.ndarray:
        return nearest_mean(cells.points, self._target.points, NEIGHBOURS)

    def _values(self, after: Cells) -> dict[str, float]:
        once = self._scores(after, self._before.once, after.once, self._target.once)
        return {name: float(value[0]) for name, value in once.items()}

    def _scores(self, after: Cells, w_before: np.ndarray, w_after: np.ndarray, w_target: np.ndarray) -> dict[str, np.ndarray]:
        """Every score under each row of weights (B, units), (B,)."""
        before, target, n = self._before, self._target, len(after.points)
        cross, within, among = self._known
        e_before = energy(cross, within, among, w_before, w_target)
        e_after = energy(pairs(after, target), pairs(after, after), among, w_after, w_target)
        least = LEAST_SHARE * among.mean(target.once, target.once)
        gap, orthogonal = self._shift(after, w_before, w_after, w_target)
        p = self.probe.p_target(after.points + self._origin)
        told = c2st_scores(after.points, target.points, self.seed)
        above = (np.sign(told[:n, None] - told[n:]) + 1) / 2
        far, near = before.average(self._nearest_before, w_before), after.average(self._nearest(after), w_after)
        return {
            "edistance": (e_after - e_before) / np.maximum(e_before, least + TINY),
            "gap": gap,
            "orthogonal": orthogonal,
            "probe": after.average(p, w_after),
            "probe_share": after.average((p > 0.5).astype(np.float64), w_after),
            "c2st": pairs(after, target, above).mean(w_after, w_target),
            "spread": after.variance(w_after) / np.maximum(before.variance(w_before), TINY),
            "nearest": near / (far + TINY) - 1,
        }

    def _shift(
        self, after: Cells, w_before: np.ndarray, w_after: np.ndarray, w_target: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gap closed and orthogonal part, (B,) each.

        Resampling adds the noise of the means to squared lengths a second time, which in many dimensions would put the
        whole interval beside the value: the mean of what it adds is taken out again.
        """

        def products(w_b: np.ndarray, w_a: np.ndarray, w_t: np.ndarray) -> np.ndarray:
            start = self._before.mean(w_b)
            way, shift = self._target.mean(w_t) - start, after.mean(w_a) - start
            return np.stack([(shift * way).sum(1), (way * way).sum(1), (shift * shift).sum(1)])

        drawn, once = products(w_before, w_after, w_target), products(self._before.once, after.once, self._target.once)
        along, way, shift = drawn - drawn.mean(1, keepdims=True) + once
        way = np.maximum(way, TINY)
        return along / way, np.sqrt(np.maximum(shift - along**2 / way, 0) / way)


class PermutationTest(NamedTuple):
    """A score beside its permutation null.

    Attributes
    ----------
    p : one-sided p-value, (0, 1]; NaN without a value or a null
    mean, lo, hi : mean, 2.5th and 97.5th percentile of the null
    n : permutations that have a value
    """

    p: float
    mean: float
    lo: float
    hi: float
    n: int


_GOODNESS: dict[str, Callable[[Any], Any]] = {
    "lower": lambda value: -value,
    "higher": lambda value: value,
    "near_one": lambda value: -np.abs(value - 1),
}


def permutation_p(value: float, null: np.ndarray, better: str) -> PermutationTest:
    """Return (1 + number of permutations at least as good) / (1 + n), and the null's mean and 95 % range.

    Phipson and Smyth, "Permutation p-values should never be zero", SAGMB 9 (2010).

    Parameters
    ----------
    value : the score
    null : (n,) the same score of each permutation; NaN are left out
    better : lower, higher or near_one, as SCORES has it

    Raises
    ------
    SteerError : an unknown direction
    """
    if better not in _GOODNESS:
        raise unknown("direction", better, _GOODNESS)
    kept = np.asarray(null, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return PermutationTest(np.nan, np.nan, np.nan, np.nan, 0)
    lo, hi = np.percentile(kept, [2.5, 97.5])
    goodness = _GOODNESS[better]
    # equal scores may differ in the last digits
    as_good = int((goodness(kept) >= goodness(value) - TINY * max(1.0, abs(value))).sum())
    p = np.nan if np.isnan(value) else (1 + as_good) / (1 + len(kept))
    return PermutationTest(float(p), float(kept.mean()), float(lo), float(hi), len(kept))
