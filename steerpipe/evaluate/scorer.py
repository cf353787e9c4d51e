"""Scores of edits on some cells towards some target cells: what everything that scores a recipe shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import EvaluateConfig
from ..progress import track
from ..sae.model import TopKSAE
from ..steering.contrast_streams import CellStates
from ..steering.intervene import CachedCells, Edit, ReplayedCodes, State, recipe_edit, run_edit
from ..steering.shift import recipe_shift
from .de import DEGenes
from .distances import score
from .metrics import METRICS, Outcome, Pair
from .population import Population, fit_probe

Values = dict[tuple[str, str], float]
"""(space, score) -> value."""


@dataclass(frozen=True)
class Scorer:
    """Cells that are steered, and the target cells that they are measured against.

    Attributes
    ----------
    cached : streams of the cells that are steered, and of those that the recipe was fitted on
    sae : of the steered tokens
    zbar : float64 (n_rows, F), mean code over a cell's valid gene tokens
    states : the contrast's unsteered cells, by their positions in the dataset
    cells : int64 (n_rows,), each row's position in the dataset
    rows : rows that are steered
    target : the target cells, as positions in the dataset
    sides : rows of the fit's source and target cells, on which the probe is trained
    expressed : bool (G_valid,), genes that the fit's source cells express
    genes : the contrast's DE genes, chosen on the fit's cells; None for a model without an output head
    donors : the donors of the steered and of the target cells, which are resampled instead of cells; None where not known
    config : how many genes, and how many bootstraps
    batch_size : cells a pass through the model
    """

    cached: CachedCells
    sae: TopKSAE
    zbar: np.ndarray
    states: CellStates
    cells: np.ndarray
    rows: np.ndarray
    target: np.ndarray
    sides: tuple[np.ndarray, np.ndarray]
    expressed: np.ndarray
    genes: DEGenes | None
    donors: tuple[np.ndarray | None, np.ndarray | None]
    config: EvaluateConfig
    seed: int
    batch_size: int

    @cached_property
    def base(self) -> State:
        """The cells unsteered."""
        return self.state(None)

    @cached_property
    def goal(self) -> State:
        """The target cells."""
        return self.states[self.target]

    @cached_property
    def populations(self) -> dict[str, Population]:
        """What each space knows before any recipe is scored: layer, final and, of a model with a head, expression."""
        fit = [self.states[self.cells[rows]] for rows in self.sides]
        found = {}
        for space in ("layer", "final", "expression"):
            if space == "expression" and self.genes is None:
                continue
            probe = fit_probe(self.points(fit[0], space), self.points(fit[1], space), self.seed)
            before, goal = self.points(self.base, space), self.points(self.goal, space)
            found[space] = Population(before, goal, probe, *self.donors, self.seed)
        return found

    @cached_property
    def floors(self) -> Values:
        """Every headline score with one half of the target cells in place of the steered ones: what arrival looks like."""
        found = {space: one.floor(self.seed) for space, one in self.populations.items()}
        return {(space, name): value for space, values in found.items() for name, value in values.items()}

    def state(self, edit: Edit | None) -> State:
        """Return the cells after an edit."""
        return run_edit(self.cached, self.rows, edit, batch_size=self.batch_size)

    @cached_property
    def codes(self) -> ReplayedCodes:
        """The cells' codes, made by the first recipe that multiplies them."""
        return ReplayedCodes(self.sae)

    def recipe(self, theta: np.ndarray, mode: str) -> State:
        """Return the cells steered by theta (F,)."""
        values = torch.as_tensor(theta, dtype=torch.float32, device=self.cached.device)
        if mode == "multiply":
            return self.state(self.codes.edit(values))
        return self.state(recipe_edit(self.sae, values, mode))

    def shift(self, theta: np.ndarray, mode: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return what a recipe (F,) adds to the embeddings at its layer, float64 (n, D): linear in theta, no model needed.

        `rows` are those that are steered unless given.
        """
        return recipe_shift(self.cached, self.sae, theta, mode, self.zbar[self.rows if rows is None else rows])

    def pairs(self, after: State) -> dict[str, Pair]:
        """Return each cell's distance to the target before and after, by space (evaluate.metrics.METRICS)."""
        outcome = Outcome(self.base, after, self.goal, self.genes, self.expressed, self.config.n_genes)
        found = {space: metric.function(outcome) for space, metric in METRICS.items()}
        return {space: pair for space, pair in found.items() if pair is not None}

    def values(self, after: State) -> Values:
        """Return every score, without intervals."""
        found: Values = {}
        for space, one in self.populations.items():
            found |= {(space, name): value for name, value in one.values(self.points(after, space)).items()}
        for space, pair in self.pairs(after).items():
            there = np.isfinite(pair[0])
            before, steered = pair[0][there], pair[1][there]
            found[space, "closer"] = float((steered < before).mean())
            found[space, "change"] = float(np.median(steered / np.maximum(before, 1e-300) - 1))
        return found

    def layer_values(self, moved: np.ndarray) -> Values:
        """Return the headline scores at the steered layer, which need no model: `moved` (n, D) is added to the embeddings."""
        found = self.populations["layer"].values(self.base.layer + moved)
        return {("layer", name): value for name, value in found.items()}

    def layer_gaps(self, thetas: np.ndarray, mode: str) -> np.ndarray:
        """Return the gap that each recipe (n, F) closes at the steered layer, float64 (n,): what layer_values calls gap.

        It is a matter of the cells' mean shift alone, and so a hundred times quicker than all scores.
        """
        start = np.asarray(self.base.layer, np.float64).mean(0)
        way = np.asarray(self.goal.layer, np.float64).mean(0) - start
        moved = np.array([self.shift(theta, mode).mean(0) for theta in thetas]).reshape(len(thetas), len(way))
        return np.asarray(moved @ way / max(float(way @ way), 1e-12))

    def rows_of(self, after: State, *, intervals: bool = True) -> list[dict[str, Any]]:
        """Return a row a space and score: value, its 95 % interval, its floor, the number of cells, what is resampled."""
        options: dict[str, Any] = {"n_bootstrap": self.config.n_bootstrap, "seed": self.seed}
        bounds: dict[tuple[str, str], tuple[float, float]] = {}
        if intervals:
            for space, one in self.populations.items():
                found = one.intervals(self.points(after, space), **options)
                bounds |= {(space, name): interval for name, interval in found.items()}
            for space, pair in self.pairs(after).items():
                there = np.isfinite(pair[0])
                cells = score(pair[0][there], pair[1][there], **options)
                bounds[space, "closer"] = cells.closer_lo, cells.closer_hi
                bounds[space, "change"] = cells.change_lo, cells.change_hi
        resampled = self.populations["layer"].resampled
        rows = []
        for (space, name), value in self.values(after).items():
            lo, hi = bounds.get((space, name), (np.nan, np.nan))
            floor = self.floors.get((space, name), np.nan)
            row = {"space": space, "score": name, "value": value, "lo": lo, "hi": hi, "floor": floor}
            rows.append(row | {"n": len(self.rows), "resampled": resampled})
        return rows

    def agreement(self, after: State) -> list[dict[str, Any]]:
        """Return a row a space: how the cells agree on closer or farther, with the Wilcoxon test over cells.

        One recipe moves all cells alike, so that they are no replicates of it: such a p says that cells agree, not that
        there is something to find.
        """
        rows = []
        for space, pair in self.pairs(after).items():
            there = np.isfinite(pair[0])
            cells = score(pair[0][there], pair[1][there], n_bootstrap=self.config.n_bootstrap, seed=self.seed)
            found = cells.row()
            rows.append({"space": space, **{k: v for k, v in found.items() if k != "p"}, "wilcoxon_p": found["p"]})
        return rows

    def null(self, thetas: np.ndarray, mode: str, n_model: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return what the recipes of a null score, and the first n_model's distances per cell.

        The first n_model recipes are scored in every space, through the model; the others at the steered layer, where the
        shift is linear in theta and no model is needed.

        Returns
        -------
        scores : columns deal, space, score, value
        cells : columns deal, space, cell, before, after
        """
        rows: list[dict[str, Any]] = []
        cells = []
        for number, theta in enumerate(track(thetas, "scores of the null", len(thetas))):
            if number < n_model:
                state = self.recipe(theta, mode) if theta.any() else self.base
                values = self.values(state)
                cells += [frame.assign(deal=number) for frame in self.cell_frames(state)]
            else:
                values = self.layer_values(self.shift(theta, mode))
            rows += [{"deal": number, "space": s, "score": name, "value": value} for (s, name), value in values.items()]
        empty = pd.DataFrame(columns=["space", "cell", "before", "after", "deal"])
        return (
            pd.DataFrame(rows, columns=["deal", "space", "score", "value"]),
            pd.concat(cells, ignore_index=True) if cells else empty,
        )

    def cell_frames(self, after: State) -> Iterator[pd.DataFrame]:
        """Yield, by space, each cell's distance to the target before and after."""
        cells = self.cells[self.rows]
        for space, (before, steered) in self.pairs(after).items():
            there = np.isfinite(before)
            yield pd.DataFrame({"space": space, "cell": cells[there], "before": before[there], "after": steered[there]})

    def points(self, state: State, space: str) -> np.ndarray:
        """Return the cells in a space, (N, .): expression is that of the DE genes."""
        if space != "expression":
            return np.asarray(getattr(state, space))
        assert self.genes is not None
        return np.asarray(state.expression[:, np.concatenate([self.genes.up, self.genes.down])])
