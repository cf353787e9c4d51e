"""The distances that a recipe is scored by: a registry of name, better and function. A new one is one entry.

Each function returns the distance of every cell to the target before and after the edit, (N,) both, NaN for a cell that it
does not apply to; or None where it applies to none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..steering.intervene import State
from .de import DEGenes, moved_genes
from .distances import distances, nearest_mean

NEIGHBOURS = 10
Pair = tuple[np.ndarray, np.ndarray]


class Outcome(NamedTuple):
    """What a metric may look at.

    Attributes
    ----------
    before, after : the same source cells
    target : target cells that share none with the fit where the source cells do not either
    genes : DE genes of the contrast, chosen on the fit's cells; None for a model without an output head
    expressed : bool (G_valid,)
    n_genes : genes of each direction at the most
    """

    before: State
    after: State
    target: State
    genes: DEGenes | None
    expressed: np.ndarray
    n_genes: int


@dataclass(frozen=True)
class Metric:
    """A distance; `better` is lower or higher."""

    name: str
    better: str
    about: str
    function: Callable[[Outcome], Pair | None]


def _centroid(space: str) -> Callable[[Outcome], Pair | None]:
    def function(outcome: Outcome) -> Pair | None:
        before, after, target = (getattr(state, space) for state in (outcome.before, outcome.after, outcome.target))
        return distances(before, target.mean(0)), distances(after, target.mean(0))

    return function


def _nearest(space: str) -> Callable[[Outcome], Pair | None]:
    def function(outcome: Outcome) -> Pair | None:
        before, after, target = (getattr(state, space) for state in (outcome.before, outcome.after, outcome.target))
        k = min(NEIGHBOURS, len(target))
        return nearest_mean(before, target, k), nearest_mean(after, target, k)

    return function


def _de(name: str) -> Callable[[Outcome], Pair | None]:
    def function(outcome: Outcome) -> Pair | None:
        genes = outcome.genes.sets().get(name) if outcome.genes is not None else None
        return None if genes is None else _profile(outcome, genes, slice(None))

    return function


def _steering_de(direction: int) -> Callable[[Outcome], Pair | None]:
    """Genes are chosen on every other cell and scored on the rest, and the other way round."""

    def function(outcome: Outcome) -> Pair | None:
        before, after = outcome.before.expression, outcome.after.expression
        if outcome.genes is None or len(before) < 6 or np.array_equal(before, after):
            return None
        pair = np.full(len(before), np.nan), np.full(len(before), np.nan)
        halves = slice(0, None, 2), slice(1, None, 2)
        for chosen_on, scored_on in (halves, halves[::-1]):
            moved = moved_genes(before[chosen_on], after[chosen_on], outcome.expressed, outcome.n_genes)[direction]
            if len(moved):
                pair[0][scored_on], pair[1][scored_on] = _profile(outcome, moved, scored_on)
        return pair if np.isfinite(pair[0]).any() else None

    return function


def _profile(outcome: Outcome, genes: np.ndarray, cells: slice) -> Pair:
    mu = outcome.target.expression.mean(0)[genes]
    before, after = outcome.before.expression[cells], outcome.after.expression[cells]
    return distances(before[:, genes], mu), distances(after[:, genes], mu)


_SETS = {"up": "DE genes up", "down": "DE genes down"}
_HALVES = {"": "", "_seen": ", seen by the fit", "_unseen": ", not seen by the fit"}

METRICS = {
    metric.name: metric
    for metric in (
        Metric("layer", "lower", "distance to the target's mean embedding at the steered layer", _centroid("layer")),
        Metric("layer_nearest", "lower", "mean distance to the 10 nearest target cells there", _nearest("layer")),
        Metric("final", "lower", "distance to the target's mean embedding after the final LayerNorm", _centroid("final")),
        Metric("final_nearest", "lower", "mean distance to the 10 nearest target cells there", _nearest("final")),
        *(
            Metric(f"de_{name}{half}", "lower", f"distance to the target's mean profile: {about}{seen}", _de(f"{name}{half}"))
            for half, seen in _HALVES.items()
            for name, about in _SETS.items()
        ),
        Metric("steering_de_up", "lower", "the same on genes that steering raised", _steering_de(0)),
        Metric("steering_de_down", "lower", "the same on genes that steering lowered", _steering_de(1)),
    )
}
