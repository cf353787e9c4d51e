"""Scores of edits on some of an experiment's cells towards some of its targets: what every command that scores shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import Config, ObjectiveConfig
from ..errors import SteerError
from ..evaluate.de import DEGenes, expressed_genes
from ..evaluate.distances import score
from ..evaluate.inference import add_null
from ..evaluate.metrics import METRICS, Outcome, Pair
from ..evaluate.population import Population, fit_probe
from ..progress import track
from ..steering.intervene import Edit, ReplayedCodes, State, recipe_edit, run_edit
from .artefact import built
from .experiment import Experiment, Sides
from .fit import Recipe
from .ladder import cells_key
from .null import null_recipes
from .problems import Groups, shift

Values = dict[tuple[str, str], float]
"""(space, score) -> value."""

VERSION = 1
MIN_SCORED = 4
"""Cells of either side below which nothing is scored."""


@dataclass(frozen=True)
class Scorer:
    """Cells that are steered, and the target cells that they are measured against.

    Attributes
    ----------
    rows : rows of the experiment that are steered
    target : the target cells, as positions in the dataset
    sides : the fit's rows, on which the probe is trained
    genes : the contrast's DE genes, chosen on the fit's cells; None for a model without an output head
    """

    experiment: Experiment
    rows: np.ndarray
    target: np.ndarray
    sides: Sides
    genes: DEGenes | None

    @cached_property
    def base(self) -> State:
        """The cells unsteered."""
        return self.state(None)

    @cached_property
    def goal(self) -> State:
        """The target cells."""
        return self._stored(self.target)

    @cached_property
    def expressed(self) -> np.ndarray:
        """bool (G_valid,): genes that the fit's source cells express."""
        return expressed_genes(self.experiment.counts[self.sides.source])

    @cached_property
    def populations(self) -> dict[str, Population]:
        """What each space knows before any recipe is scored: layer, final and, of a model with a head, expression."""
        seed = self.experiment.context.config.seed
        fit = [self._stored(self.experiment.cells[rows]) for rows in self.sides]
        donors = [self._donors(cells) for cells in (self.experiment.cells[self.rows], self.target)]
        found = {}
        for space in ("layer", "final", "expression"):
            if space == "expression" and self.genes is None:
                continue
            probe = fit_probe(self.points(fit[0], space), self.points(fit[1], space), seed)
            before, goal = self.points(self.base, space), self.points(self.goal, space)
            found[space] = Population(before, goal, probe, donors[0], donors[1], seed)
        return found

    @cached_property
    def floors(self) -> Values:
        """Every headline score with one half of the target cells in place of the steered ones: what arrival looks like."""
        seed = self.experiment.context.config.seed
        found = {space: one.floor(seed) for space, one in self.populations.items()}
        return {(space, name): value for space, values in found.items() for name, value in values.items()}

    def state(self, edit: Edit | None) -> State:
        """Return the cells after an edit."""
        batch = self.experiment.context.config.model.batch_size
        return run_edit(self.experiment.cached, self.rows, edit, batch_size=batch)

    @cached_property
    def codes(self) -> ReplayedCodes:
        """The cells' codes, made by the first recipe that multiplies them."""
        return ReplayedCodes(self.experiment.sae)

    def recipe(self, theta: np.ndarray, mode: str | None = None) -> State:
        """Return the cells steered by theta (F,); `mode` is the configured one."""
        experiment = self.experiment
        mode = mode or experiment.context.config.objective.mode
        values = torch.as_tensor(theta, dtype=torch.float32, device=experiment.cached.device)
        if mode == "multiply":
            return self.state(self.codes.edit(values))
        return self.state(recipe_edit(experiment.sae, values, mode))

    def pairs(self, after: State) -> dict[str, Pair]:
        """Return each cell's distance to the target before and after, by space (evaluate.metrics.METRICS)."""
        n_genes = self.experiment.context.config.evaluate.n_genes
        outcome = Outcome(self.base, after, self.goal, self.genes, self.expressed, n_genes)
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

    def rows_of(self, after: State, *, intervals: bool = True) -> list[dict[str, Any]]:
        """Return a row a space and score: value, its 95 % interval, its floor, the number of cells, what is resampled."""
        config = self.experiment.context.config
        options: dict[str, Any] = {"n_bootstrap": config.evaluate.n_bootstrap, "seed": config.seed}
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
        config = self.experiment.context.config
        rows = []
        for space, pair in self.pairs(after).items():
            there = np.isfinite(pair[0])
            cells = score(pair[0][there], pair[1][there], n_bootstrap=config.evaluate.n_bootstrap, seed=config.seed)
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
                values = self.layer_values(shift(self.experiment, theta, mode, self.rows))
            rows += [{"deal": number, "space": s, "score": name, "value": value} for (s, name), value in values.items()]
        empty = pd.DataFrame(columns=["space", "cell", "before", "after", "deal"])
        return (
            pd.DataFrame(rows, columns=["deal", "space", "score", "value"]),
            pd.concat(cells, ignore_index=True) if cells else empty,
        )

    def cell_frames(self, after: State) -> Iterator[pd.DataFrame]:
        """Yield, by space, each cell's distance to the target before and after."""
        cells = self.experiment.cells[self.rows]
        for space, (before, steered) in self.pairs(after).items():
            there = np.isfinite(before)
            yield pd.DataFrame({"space": space, "cell": cells[there], "before": before[there], "after": steered[there]})

    def points(self, state: State, space: str) -> np.ndarray:
        """Return the cells in a space, (N, .): expression is that of the DE genes."""
        if space != "expression":
            return np.asarray(getattr(state, space))
        assert self.genes is not None
        return np.asarray(state.expression[:, np.concatenate([self.genes.up, self.genes.down])])

    def _stored(self, cells: np.ndarray) -> State:
        experiment = self.experiment
        expression = experiment.expression[cells] if experiment.has_head else np.zeros((len(cells), 0), np.float32)
        return State(experiment.layer[cells], experiment.final[cells], expression)

    def _donors(self, cells: np.ndarray) -> np.ndarray | None:
        batch = self.experiment.context.config.dataset.batch
        return None if batch is None else self.experiment.activations.obs[batch].astype(str).to_numpy()[cells]


def scorer(experiment: Experiment, split: str = "held") -> Scorer:
    """Return the scorer of an experiment's held-out cells, or of the fit's (`fit`), at most evaluate.max_cells a side.

    Raises
    ------
    SteerError
        There are no held-out cells to score.
    """
    cells = experiment.split
    pair = (experiment.held_rows, cells.target_held) if split == "held" else (experiment.fit_rows, cells.target_fit)
    return make_scorer(experiment, *pair, experiment.sides, experiment.de_genes if experiment.has_head else None)


def make_scorer(experiment: Experiment, rows: np.ndarray, target: np.ndarray, sides: Sides, genes: DEGenes | None) -> Scorer:
    """Return a scorer of some rows and targets, thinned to evaluate.max_cells of each."""
    config = experiment.context.config
    if min(len(rows), len(target)) < MIN_SCORED:
        sizes = f"{len(rows)} source and {len(target)} target cells"
        raise SteerError(f"{sizes} are held out; scoring needs {MIN_SCORED} of each: raise dataset.test_share.")
    rng = np.random.default_rng([config.seed, 11])
    most = config.evaluate.max_cells
    rows, target = (np.sort(rng.permutation(some)[:most]) for some in (rows, target))
    return Scorer(experiment, rows, target, sides, genes)


def judged(
    experiment: Experiment, objective: ObjectiveConfig, how: Scorer, groups: Groups | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the null of an objective's recipe on a scorer's cells, kept in the store: its scores, and its cells.

    See Scorer.null for the columns.
    """
    null, thetas = null_recipes(experiment, objective, groups)
    config = experiment.context.config
    n_model = min(len(thetas), config.evaluate.n_permutations_model)

    def build(folder: Path) -> None:
        scores, cells = how.null(thetas, objective.mode, n_model)
        scores.to_parquet(folder / "scores.parquet", index=False)
        cells.astype({"deal": np.int64, "cell": np.int64, "before": float, "after": float}).to_parquet(
            folder / "cells.parquet", index=False
        )

    settings = scored_key(experiment, how) | {"n_model": n_model}
    artefact = built(experiment.context, "null-scores", build, version=VERSION, reads=settings, parents=[null])
    scores, cells = (pd.read_parquet(artefact.path / f"{name}.parquet") for name in ("scores", "cells"))
    return scores, cells


def scored(experiment: Experiment, recipe: Recipe, how: Scorer, name: str) -> pd.DataFrame:
    """Return a recipe's scores on a scorer's cells beside its null, kept in the store: evaluate.inference.COLUMNS."""
    config = experiment.context.config

    def build(folder: Path) -> None:
        rows = how.rows_of(how.recipe(recipe.theta, recipe.mode) if recipe.theta.any() else how.base)
        pd.DataFrame(rows).to_parquet(folder / "scores.parquet", index=False)

    settings = scored_key(experiment, how) | {"n_bootstrap": config.evaluate.n_bootstrap}
    parents = [recipe.artefact]
    artefact = built(experiment.context, "scores", build, version=VERSION, reads=settings, parents=parents)
    label = {"recipe": name, "kind": "recipe", "split": "held", "dictionaries": 1, "seeds": 1}
    rows = pd.read_parquet(artefact.path / "scores.parquet").assign(**label)
    null, _ = judged(experiment, recipe.settings, how)
    return add_null(rows, null.assign(recipe=name, split="held"))


def scored_key(experiment: Experiment, how: Scorer) -> dict[str, Any]:
    """Return what identifies the cells and genes that a scorer looks at."""
    config = experiment.context.config
    cells = np.concatenate([experiment.cells[how.rows], [-1], how.target]).astype(np.int64)
    settings = {"n_genes": config.evaluate.n_genes, "seen_genes": config.objective.seen_genes, "batch": config.dataset.batch}
    settings |= cells_key(experiment, [how.sides])
    return settings | {"scored": hashlib.sha256(cells.tobytes()).hexdigest()[:16]}


def require_multiply(config: Config, command: str) -> None:
    """Refuse, for commands whose questions are about alpha, the modes that have none."""
    if config.objective.mode != "multiply":
        raise SteerError(f"{command} asks about alpha: objective.mode={config.objective.mode} has none; take multiply.")
