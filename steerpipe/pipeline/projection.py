"""Where held-out cells are before and after steering: on the way to the target, and on a UMAP of the unsteered ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .artefact import built
from .context import Context
from .evaluation import Evaluation
from .experiment import prepare
from .scoring import scorer

VERSION = 2
NEIGHBOURS = 15


def plane(context: Context, found: Evaluation) -> pd.DataFrame:
    """Return held-out cells along the way from the source's to the target's mean, and across it.

    Returns
    -------
    DataFrame
        columns space (layer, final, expression), group (source, target, steered), recipe (of steered cells), cell (position in
        the dataset), x (0 at the source cells' mean, 1 at the target's) and y (first principal component, of source and target
        cells together, of what is orthogonal to the way)
    """

    def build(folder: Path) -> None:
        experiment = prepare(context)
        how = scorer(experiment)
        after = {recipe.objective: how.recipe(recipe.theta, recipe.mode) for recipe in found.recipes}
        source = experiment.cells[how.rows]
        frames = []
        for space in how.populations:
            before, target = how.points(how.base, space), how.points(how.goal, space)
            start, way = before.mean(0), target.mean(0) - before.mean(0)
            way = way / max(float(way @ way), 1e-300)
            both = np.concatenate([before - start, target - start])
            across = both - np.outer(both @ way, way) / max(float(way @ way), 1e-300)
            component = np.linalg.svd(across - across.mean(0), full_matrices=False)[2][0]
            component = component - way * float(component @ way) / max(float(way @ way), 1e-300)
            groups = [("source", "", source, before), ("target", "", how.target, target)]
            groups += [("steered", name, source, how.points(state, space)) for name, state in after.items()]
            for group, recipe, cells, points in groups:
                xy = np.stack([(points - start) @ way, (points - start) @ component], axis=1)
                frames.append(_frame(group, recipe, cells, np.ones(len(cells), bool), xy).assign(space=space))
        pd.concat(frames, ignore_index=True).to_csv(folder / "plane.csv", index=False)

    artefact = built(context, "plane", build, version=1, reads={}, parents=[found.artefact])
    return pd.read_csv(artefact.path / "plane.csv", keep_default_na=False)


def umap(context: Context, found: Evaluation) -> pd.DataFrame:
    """Return the UMAP of the contrast's final embeddings, with the held-out cells steered by each recipe.

    The reducer is fitted on the unsteered source and target cells; steered cells go through its `transform`. Cost: one
    UMAP of the contrast's cells, kept in the store, and half a minute of compiling.

    Returns
    -------
    DataFrame
        columns group (source, target, steered), recipe (of steered cells), cell (position in the dataset), held_out, x, y
    """
    seed = context.config.seed

    def build(folder: Path) -> None:
        experiment = prepare(context)
        split, how = experiment.split, scorer(experiment)
        groups = {"source": split.source, "target": split.target}
        cells = np.concatenate(list(groups.values()))
        reducer = fit_umap(experiment.final[cells], seed)
        frames = []
        held = np.concatenate([split.source_held, split.target_held])
        at = 0
        for name, some in groups.items():
            points = reducer.embedding_[at : at + len(some)]
            at += len(some)
            frames.append(_frame(name, "", some, np.isin(some, held), points))
        for recipe in found.recipes:
            points = reducer.transform(how.recipe(recipe.theta, recipe.mode).final)
            frames.append(_frame("steered", recipe.objective, experiment.cells[how.rows], np.ones(len(points), bool), points))
        pd.concat(frames, ignore_index=True).to_csv(folder / "umap.csv", index=False)

    settings = {"neighbours": NEIGHBOURS, "seed": seed}
    artefact = built(context, "umap", build, version=VERSION, reads=settings, parents=[found.artefact])
    return pd.read_csv(artefact.path / "umap.csv", keep_default_na=False)


def fit_umap(points: np.ndarray, seed: int) -> Any:
    """Return a UMAP fitted on points (N, D); its `transform` places others."""
    with warnings.catch_warnings():  # of a part that would need Tensorflow
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP  # seconds to import

    return UMAP(n_neighbors=min(NEIGHBOURS, len(points) - 1), random_state=seed, n_jobs=1).fit(points)


def _frame(group: str, recipe: str, cells: np.ndarray, held: np.ndarray, points: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {"group": group, "recipe": recipe, "cell": cells, "held_out": held, "x": points[:, 0], "y": points[:, 1]}
    )
