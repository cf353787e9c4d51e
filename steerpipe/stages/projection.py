"""Where steered cells land on a UMAP of the unsteered ones: projected with the fitted reducer, never refitted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .common import Context
from .evaluate import Evaluation
from .experiment import prepare
from .scoring import held_out

VERSION = 1
NEIGHBOURS = 15


def projection(context: Context, found: Evaluation) -> pd.DataFrame:
    """Return the UMAP of the contrast's final embeddings, with the held-out cells steered by each recipe.

    The reducer is fitted on the unsteered source and target cells; steered cells go through its `transform`. Cost: one
    UMAP of the contrast's cells, kept in the store.

    Returns
    -------
    DataFrame
        columns group (source, target, steered), recipe (of steered cells), cell (position in the dataset), held_out, x, y
    """
    seed = context.config.seed

    def build(folder: Path) -> None:
        experiment = prepare(context)
        split, scorer = experiment.split, held_out(experiment)
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
            points = reducer.transform(scorer.recipe(recipe.theta).final)
            frames.append(_frame("steered", recipe.objective, split.source_held, np.ones(len(points), bool), points))
        pd.concat(frames, ignore_index=True).to_csv(folder / "umap.csv", index=False)

    settings = {"neighbours": NEIGHBOURS, "seed": seed}
    artefact = context.store.get("umap", version=VERSION, config=settings, parents=[found.artefact], build=build)
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
