"""What a feature has to exceed to count: floors of its activity and of its effect, and the effects of the permutation null."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ...activations.extract import model_inputs
from ...config import ObjectiveConfig
from ...evaluate.floors import effect_and_null, matched_features, permuted_cells
from ...pipeline.activations import load_cells
from ...pipeline.artefact import Artefact, built, kept
from ...pipeline.experiment import Experiment
from ...pipeline.fit import Recipe
from ...pipeline.ladder import cells_key
from ...pipeline.null import dealt, null_recipes
from ...pipeline.problems import Groups, latent_problem, model_objective
from ...progress import track

VERSION = 2


def activation_floor(experiment: Experiment, *, n_permutations: int, n_cells: int, percentile: float) -> np.ndarray:
    """Return the percentile over permutations of each feature's mean |z|, (F,).

    Each gene's counts are permuted over the fit's source cells, depth tokens follow from the new totals, and n_cells of
    the new cells run through the lower blocks. A mean of few cells scatters more than that of all, so the floor is on the
    high side: it errs against the feature. Cost: n_permutations * n_cells cells through the lower blocks.
    """
    settings = {"n_permutations": n_permutations, "n_cells": n_cells, "tokens": experiment.context.config.objective.tokens}
    settings |= cells_key(experiment)

    def build(folder: Path) -> None:
        config, model = experiment.context.config, experiment.cached.model
        source = load_cells(config, model.genes)[experiment.split.source_fit]
        dense = np.asarray(source.todense())
        for number in track(range(n_permutations), "permutations", n_permutations):
            kept(folder / f"{number:04d}.npy", partial(one, dense, number))
        samples = np.stack([np.load(folder / f"{number:04d}.npy") for number in range(n_permutations)])
        np.save(folder / "activity.npy", samples)
        for number in range(n_permutations):
            (folder / f"{number:04d}.npy").unlink()

    def one(dense: np.ndarray, number: int) -> np.ndarray:
        cached, sae = experiment.cached, experiment.sae
        valid, tokens = cached.valid.cpu().numpy(), cached.tokens[cached.pooled]
        rng = np.random.default_rng([experiment.context.config.seed, 5, number])
        cells = np.zeros((min(n_cells, len(dense)), dense.shape[1]), np.float32)
        cells[:, valid] = permuted_cells(dense[:, valid], len(cells), rng)  # the others are 0 throughout
        cells = cells[cells.sum(1) > 0]
        total = np.zeros(sae.n_features)
        with torch.no_grad():
            for values in model_inputs(cached.model, sp.csr_matrix(cells), experiment.context.config.model.batch_size):
                codes = sae.encode(cached.model.stream(values, cached.layer, read=tokens))
                sizes = codes.values.abs().double().flatten().cpu().numpy()
                total += np.bincount(codes.indices.flatten().cpu().numpy(), sizes, sae.n_features)
        return total / (len(cells) * len(cached.valid))

    path = stored(experiment, "diagnose-activation", settings, build)
    return np.asarray(np.percentile(np.load(path / "activity.npy"), percentile, axis=0))


def effect_floor(experiment: Experiment, recipe: Recipe, *, n_matched: int, percentile: float) -> pd.DataFrame:
    """Return effect and its floor of every recruited feature; columns feature, theta, effect, effect_floor.

    The random features are the unrecruited ones nearest in activity. Cost: n_matched + 1 values of the objective a feature.
    """
    on = np.flatnonzero(recipe.theta)
    activity = experiment.activity[experiment.fit_rows].mean(0)

    def build(folder: Path) -> None:
        value = value_of(experiment, recipe.settings)
        loss = value(recipe.theta)
        for feature in track(on, f"effects, {recipe.objective}", len(on)):
            others = matched_features(int(feature), activity, experiment.active & (recipe.theta == 0), n_matched)

            kept(folder / f"{feature:06d}.npy", partial(one, value, loss, int(feature), others))

    def one(value: Callable[[np.ndarray], float], loss: float, feature: int, others: np.ndarray) -> np.ndarray:
        effect, null = effect_and_null(value, recipe.theta, feature, others, loss=loss)
        return np.array([effect, *null])

    path = stored(experiment, "diagnose-effect", {"n_matched": n_matched}, build, [recipe.artefact])
    values = [np.load(path / f"{feature:06d}.npy") for feature in on]
    floors = [float(np.percentile(v[1:], percentile)) for v in values]
    effects = [float(v[0]) for v in values]
    return pd.DataFrame({"feature": on, "theta": recipe.theta[on], "effect": effects, "effect_floor": floors})


def value_of(experiment: Experiment, objective: ObjectiveConfig, groups: Groups | None = None) -> Callable[[np.ndarray], float]:
    """Return an objective without its penalty, as a function of theta (F,)."""
    if objective.name == "latent":
        return latent_problem(experiment, objective, groups).loss
    return model_objective(experiment, objective, groups).value


def null_effects(experiment: Experiment, recipe: Recipe) -> list[np.ndarray]:
    """Return the effects of the features that each deal of the permutation null recruits: what there is where nothing is.

    The effect is that of `effect_floor`: what the deal's objective loses when the feature is put back to 1. Cost: a value of
    the objective for every feature that a deal recruits.
    """
    null, thetas = null_recipes(experiment, recipe.settings)

    def build(folder: Path) -> None:
        for number in track(range(len(thetas)), f"effects of the null, {recipe.objective}", len(thetas)):
            kept(folder / f"{number:04d}.npy", partial(one, number))

    def one(number: int) -> np.ndarray:
        theta = thetas[number]
        value = value_of(*dealt(experiment, recipe.settings, [experiment.sides], number))
        loss = value(theta)
        return np.array([value(np.where(np.arange(len(theta)) == f, 0.0, theta)) - loss for f in np.flatnonzero(theta)])

    path = stored(experiment, "diagnose-null", {}, build, [null])
    return [np.load(path / f"{number:04d}.npy") for number in range(len(thetas))]


def stored(
    experiment: Experiment,
    stage: str,
    settings: dict[str, Any],
    build: Callable[[Path], None],
    parents: Sequence[Artefact] = (),
) -> Path:
    """Return the folder of one of the diagnosis's parts, building it when it is missing."""
    inputs = [experiment.streams, experiment.dictionary.artefact, *parents]
    return built(experiment.context, stage, build, version=VERSION, reads=settings, parents=inputs).path
