"""Dictionaries, recipes and their scores, by the same steps as `steer train-sae`, `steer fit` and `steer evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from ..config import ContrastConfig, EvaluateConfig, LambdaConfig, ObjectiveConfig, SaeConfig
from ..errors import SteerError
from ..evaluate.inference import conclusions
from ..evaluate.tables import headline
from ..pipeline.activations import layer_index
from ..pipeline.checkpoint import require_head
from ..pipeline.fit import fit as fit_recipe
from ..pipeline.fit import recipe_table
from .cells import fits
from .objects import SAE, Model, Recipe, sae_of
from .settings import SIZES, group_of, opened, set_apart, told

SHARED = ("contrast", "lam", "label", "batch", "layer", "seed")
"""What recipes of one table have in common, beside the settings of their objective."""


@told
def train_sae(
    adata: AnnData,
    model: Model,
    *,
    layer: int | None = None,
    k: int | None = None,
    expansion: int | None = None,
    seed: int = 0,
    label: str | None = None,
    batch: str | None = None,
    counts: str | None = None,
    store: str | Path | None = None,
    **settings: Any,
) -> SAE:
    """Train a sparse autoencoder on the residual stream of the cells that are no test cells, and score it on those that are.

    Parameters
    ----------
    adata : cells with raw counts, in memory or backed; obs["steer_test"] is written where it is missing (see `hold_out`)
    layer : 0-based block; None: the model's steering layer
    k, expansion : features active per token, and features over model width; None: what the commands take with the model
    seed : of the first weights and of the tokens' order
    label, batch : columns of obs that the test cells are spread over, where they are not set apart yet
    counts, store : see `embed`
    settings : further ones of the group `sae`, as tokens=500_000, activation="relu", members=5

    Returns
    -------
    SAE
        its features are those of the file in the store; `SAE.save` writes it elsewhere

    Raises
    ------
    SteerError
        No such keyword, a value that is not allowed, or see `embed`.
    """
    sizes = SIZES.get(model.path, {}) | {name: n for name, n in (("k", k), ("expansion", expansion)) if n is not None}
    config = group_of(SaeConfig, settings, seed=seed, **sizes)
    set_apart(adata, label=label, batch=batch)
    where: dict[str, Any] = {"layer": layer, "counts": counts, "store": store, "label": label, "batch": batch}
    with opened(adata, model.path, model.revision, tested=True, sae=config, **where) as pipeline:
        return sae_of(pipeline.dictionary().artefact.path, layer_index(pipeline.config))


@told
def fit(
    adata: AnnData,
    model: Model,
    sae: SAE,
    *,
    source: str | Sequence[str],
    target: str | Sequence[str],
    label: str,
    objective: str = "latent",
    lam: float = 0.05,
    lam_mode: str = "ratio",
    layer: int | None = None,
    batch: str | None = None,
    seed: int = 0,
    counts: str | None = None,
    store: str | Path | None = None,
    **settings: Any,
) -> Recipe:
    """Fit a sparse steering vector that brings the source cells to the target cells.

    Parameters
    ----------
    adata : cells with raw counts, in memory or backed; obs["steer_test"] is written where it is missing (see `hold_out`)
    source, target : a label, or several, of obs[label]
    objective : latent, latent_final, expression or mixed; with its form, as in "latent:cell" or "latent:whitened"
    lam : weight of the L1 penalty: with lam_mode "ratio" as a share of lambda_max, the smallest at which nothing is recruited;
        with "absolute" the weight itself; with "path" the share that the path goes down to
    layer : 0-based block; None: the one that the SAE was trained on, else the model's steering layer
    batch : column of obs with batches or donors
    seed : of what is drawn
    counts, store : see `embed`
    settings : further ones of the group `objective`, as mode="add", learnable="all", refit=True

    Returns
    -------
    Recipe

    Raises
    ------
    SteerError
        No such column, label or keyword, too few cells, a value that is not allowed, or see `embed`.
    """
    name = objective.split(":")[0]
    chosen = group_of(ObjectiveConfig, settings, name=name).named(objective)
    penalty = LambdaConfig(lam_mode, lam)
    contrast = ContrastConfig(_labels(source), _labels(target), seed=seed)
    set_apart(adata, label=label, batch=batch)
    groups: dict[str, Any] = {"objective": chosen, "lam": penalty, "contrast": contrast, "seed": seed}
    where: dict[str, Any] = {"counts": counts, "store": store, "label": label, "batch": batch, "tested": True}
    where |= {"layer": sae.layer if layer is None else layer, "sae": SaeConfig(path=str(sae.path))}
    with opened(adata, model.path, model.revision, **where, **groups) as pipeline:
        require_head(pipeline.config, [chosen.name], "objective='latent'")
        experiment = pipeline.experiment()
        found = fit_recipe(experiment, chosen)
        table, index = recipe_table(found, experiment), layer_index(pipeline.config)
    return Recipe(
        found.objective, found.theta, table, found.path, found.info, chosen, contrast, penalty, label, index, batch,
        sae.digest, seed, found.refit,
    )  # fmt: skip


@told
def evaluate(
    adata: AnnData,
    model: Model,
    sae: SAE,
    recipe: Recipe | Sequence[Recipe],
    *,
    counts: str | None = None,
    store: str | Path | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Score recipes on the test cells, which they never saw, beside their controls and permutation nulls.

    Parameters
    ----------
    adata : the cells that the recipes were fitted on, with their test cells in obs["steer_test"]
    recipe : one, or several that differ in nothing but objective and form
    counts, store : see `embed`; with the store of the fits they are found again
    settings : of the group `evaluate`, as n_permutations=20, controls="none"

    Returns
    -------
    DataFrame
        the headline table: one row a recipe or control and space (layer, final, expression), with E-distance (change over
        that of the unsteered cells, -1 is arrival), gap closed (1 is arrival), probe, C2ST, spread, each with its 95 %
        interval (_lo, _hi), floor, null and p. `attrs["conclusion"]`: in words, a line a recipe

    Raises
    ------
    SteerError
        The recipes differ in more, are of another dictionary, or are not what these cells and this SAE give; too few test
        cells; or see `fit`.
    """
    recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
    if not recipes:
        raise SteerError("evaluate needs a recipe, or several; steerpipe.fit makes one.")
    first, names = recipes[0], []
    for one in recipes:
        fits(one, sae)
        form = f"{one.settings.name}:{one.settings.match}:{one.settings.metric}"
        names.append(form)
        alike = all(getattr(one, what) == getattr(first, what) for what in SHARED)
        if not alike or first.settings.named(form) != one.settings:
            pair = f"{first.objective} and {one.objective}"
            raise SteerError(f"the recipes {pair} differ in more than objective and form; evaluate each in a call of its own.")
    groups: dict[str, Any] = {"objective": first.settings, "lam": first.lam, "contrast": first.contrast, "seed": first.seed}
    groups["evaluate"] = group_of(EvaluateConfig, settings, objectives=names)
    set_apart(adata, label=first.label, batch=first.batch)
    where: dict[str, Any] = {"counts": counts, "store": store, "label": first.label, "batch": first.batch, "tested": True}
    where |= {"layer": first.layer, "sae": SaeConfig(path=str(sae.path))}
    with opened(adata, model.path, model.revision, **where, **groups) as pipeline:
        require_head(pipeline.config, [one.settings.name for one in recipes], "a latent recipe alone")
        experiment = pipeline.experiment(scored=True)
        for one in recipes:
            again = fit_recipe(experiment, one.settings).theta
            if not np.allclose(one.theta, again, rtol=1e-3, atol=1e-5 * np.abs(again).max()):
                what = f"the {one.objective} recipe is not what these cells and this SAE give"
                raise SteerError(f"{what}; fit it on them: steerpipe.fit.")
        scores = pipeline.evaluation().scores
    table = headline(scores)
    table.attrs["conclusion"] = conclusions(scores)
    return table


def _labels(chosen: str | Sequence[str]) -> Any:
    """A label as it is; several as a list."""
    return list(chosen) if isinstance(chosen, (list, tuple, set, np.ndarray, pd.Series, pd.Index)) else chosen
