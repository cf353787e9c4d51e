"""The scorer of an experiment's cells, and what is kept of its scores: a recipe's beside its null's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import Config, ObjectiveConfig
from ..digest import array_digest
from ..errors import SteerError
from ..evaluate.de import DEGenes, expressed_genes
from ..evaluate.inference import add_null
from ..evaluate.scorer import Scorer
from .artefact import built
from .experiment import Experiment, Sides
from .fit import Recipe
from .ladder import cells_key
from .null import null_recipes
from .problems import Groups

VERSION = 1
MIN_SCORED = 4
"""Cells of either side below which nothing is scored."""


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
    return Scorer(
        cached=experiment.cached,
        sae=experiment.sae,
        zbar=experiment.zbar,
        states=experiment.states,
        cells=experiment.cells,
        rows=rows,
        target=target,
        sides=sides,
        expressed=expressed_genes(experiment.counts[sides.source]),
        genes=genes,
        donors=(donors(experiment, experiment.cells[rows]), donors(experiment, target)),
        config=config.evaluate,
        seed=config.seed,
        batch_size=config.model.batch_size,
    )


def donors(experiment: Experiment, cells: np.ndarray) -> np.ndarray | None:
    """Return the donor (dataset.batch) of some of the dataset's cells, str (n,); None where none is named."""
    batch = experiment.context.config.dataset.batch
    return None if batch is None else experiment.activations.obs[batch].astype(str).to_numpy()[cells]


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
    settings |= cells_key(experiment, [Sides(*how.sides)])
    return settings | {"scored": array_digest(cells)}


def require_multiply(config: Config, command: str) -> None:
    """Refuse, for commands whose questions are about alpha, the modes that have none."""
    if config.objective.mode != "multiply":
        raise SteerError(f"{command} asks about alpha: objective.mode={config.objective.mode} has none; take multiply.")
