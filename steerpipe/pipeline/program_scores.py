"""The programme's score of held-out cells under the recipe, its controls and its null."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import ObjectiveConfig
from ..evaluate.population import permutation_p
from ..evaluate.scorer import Scorer
from ..progress import track
from ..steering.controls import random_direction, random_recipe
from ..steering.intervene import Edit, State, add_vector, splice
from .artefact import built
from .experiment import Experiment
from .fit import Recipe
from .null import null_recipes
from .problems import model_objective, shift, solve
from .program import HALVES, Phenotype, phenotype, random_phenotype
from .scoring import make_scorer

VERSION = 3
RECIPE, ALIKE, STEEPEST, RANDOM, OWN, CROSS = (
    "recipe",
    "recipe, fitted as the null",
    "steepest direction",
    "random features",
    "random programme, its own rise",
    "random programme's recipe",
)
N_BOOTSTRAP = 1000
LEVEL = 0.05


def held_scorer(experiment: Experiment) -> Scorer:
    """Return the held-out source cells that are steered, recipe.held_cells at the most."""
    config = experiment.context.config.recipe
    rows = np.random.default_rng([config.seed, 83]).permutation(experiment.held_rows)[: config.held_cells]
    return make_scorer(experiment, np.sort(rows), experiment.split.target_held, experiment.sides, None)


def rise(before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rise of a score (see steering.program) in each cell, float64 (n,), log1p CP10K."""
    return np.asarray((after.astype(np.float64) - before) @ weights)


def score_table(asked: Phenotype, recipe: Recipe) -> pd.DataFrame:
    """Return the programme's rise in held-out cells, a row an edit, half of the genes and draw.

    Columns: what, half (seen by the fit, held out, all), draw, rise (log1p CP10K), sds (over the cells' SD of that score),
    lo, hi (95 % bootstrap interval of the rise over cells). Kept in the store.
    """
    experiment = asked.experiment
    config = experiment.context.config.recipe
    null, thetas = null_recipes(experiment, recipe.settings)
    how = held_scorer(experiment)

    def build(folder: Path) -> None:
        rows = []
        n = 5 + config.n_random + max(1, config.n_random // 4) + 2 * len(thetas)
        for what, draw, of, state in track(edits(asked, recipe, thetas, how), "scores", n):
            for half in HALVES:
                weights = of.weights(half)
                risen, spread = rise(how.base.expression, state.expression, weights), (how.base.expression @ weights).std()
                picks = np.random.default_rng(draw).integers(len(risen), size=(N_BOOTSTRAP, len(risen)))
                lo, hi = np.percentile(risen[picks].mean(1), [2.5, 97.5])
                row = {"what": what, "half": half, "draw": draw, "rise": risen.mean(), "sds": risen.mean() / max(spread, 1e-6)}
                rows.append(row | {"lo": lo, "hi": hi})
        pd.DataFrame(rows).to_parquet(folder / "scores.parquet", index=False)

    reads = {"cells": how.rows.tolist(), "n_random": config.n_random, "seed": config.seed}
    artefact = built(experiment.context, "recipe-scores", build, version=VERSION, reads=reads, parents=[recipe.artefact, null])
    return pd.read_parquet(artefact.path / "scores.parquet")


def edits(asked: Phenotype, recipe: Recipe, null: np.ndarray, how: Scorer) -> Iterator[tuple[str, int, Phenotype, State]]:
    """Yield what is done to the cells, which draw of it, the programme whose score is asked for, and the cells after it."""
    experiment, theta = asked.experiment, recipe.theta
    config, device = experiment.context.config.recipe, experiment.cached.device

    def added(vector: np.ndarray) -> Edit:
        return add_vector(torch.as_tensor(vector, dtype=torch.float32, device=device))

    yield RECIPE, 0, asked, how.recipe(theta, recipe.mode)
    alike = solve(experiment, recipe.settings, [experiment.sides], experiment.context.config.lam, direct=True).theta
    yield ALIKE, 0, asked, how.recipe(alike, recipe.mode) if alike.any() else how.base
    yield "no-op", 0, asked, how.base
    yield "SAE spliced in", 0, asked, how.state(splice(experiment.sae))
    rng = np.random.default_rng([config.seed, 84])
    for draw in range(config.n_random):
        random = random_recipe(theta, experiment.active | (theta != 0), rng)
        yield RANDOM, draw, asked, how.recipe(random, recipe.mode)
    norm = float(np.linalg.norm(shift(experiment, theta, recipe.mode, experiment.fit_rows), axis=1).mean())
    yield STEEPEST, 0, asked, how.state(added(norm * steepest_direction(experiment, recipe.settings)))
    for draw in range(max(1, config.n_random // 4)):
        vector = random_direction(norm, experiment.layer.values.shape[1], rng)
        yield "random direction", draw, asked, how.state(added(vector))
    for draw, one in enumerate(null):
        state = how.recipe(one, recipe.mode) if one.any() else how.base
        yield OWN, draw, phenotype(random_phenotype(experiment, draw)), state
        yield CROSS, draw, asked, state


def steepest_direction(experiment: Experiment, objective: ObjectiveConfig) -> np.ndarray:
    """Return the unit vector (D,) along which the programme's score rises fastest, on the fit's genes and cells as they are.

    What a move that is no recipe could do at the same length. Of vectors that are added the gradient in theta is W_dec v, and v
    is solved for.
    """
    added = replace(objective, mode="add")
    _, gradient = model_objective(experiment, added, [experiment.sides]).value_and_gradient(np.zeros(experiment.sae.n_features))
    W_dec = experiment.sae.W_dec.detach().cpu().numpy().astype(np.float64)
    v = -np.linalg.lstsq(W_dec, gradient, rcond=None)[0]
    return np.asarray(v / max(float(np.linalg.norm(v)), 1e-300))


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row an edit and half: means over draws, and of the recipe p against each kind of draws.

    p_program : random programmes of like size and expression whose recipe raises their own score by as many SDs as the recipe
        that is fitted as theirs are, without the rungs of the ladder
    p_features, p_cross : recipes of the same values on random features, and recipes of random programmes, that raise this score
        as much
    """
    groups = scores.groupby(["what", "half"], sort=False)
    table = groups[["rise", "sds", "lo", "hi"]].mean().reset_index().assign(draws=groups.size().to_numpy())
    many = table["draws"] > 1
    for bound, q in (("lo", 0.025), ("hi", 0.975)):
        table[bound] = np.where(many, groups["rise"].quantile(q).to_numpy(), table[bound])
    nulls = {"p_program": (ALIKE, OWN, "sds"), "p_features": (RECIPE, RANDOM, "rise"), "p_cross": (ALIKE, CROSS, "rise")}
    for column, (own, what, unit) in nulls.items():
        table[column] = np.nan
        for half in HALVES:
            value, null = (
                scores.loc[(scores["what"] == one) & (scores["half"] == half), unit].to_numpy() for one in (own, what)
            )
            there = (table["what"] == RECIPE) & (table["half"] == half)
            table.loc[there, column] = permutation_p(float(value[0]), null, "higher").p
    return table


def row_of(table: pd.DataFrame, what: str, half: str = "held") -> pd.Series:
    """Return one row of a summary."""
    found: pd.Series = table[(table["what"] == what) & (table["half"] == half)].iloc[0]
    return found


def beyond(table: pd.DataFrame) -> bool:
    """Return whether the held-out half rises more than random programmes' do, and more than under random features."""
    one = row_of(table, RECIPE)
    return bool(one["rise"] > 0 and max(one["p_program"], one["p_features"]) <= LEVEL)


def verdict(name: str, table: pd.DataFrame, n_features: int) -> str:
    """Return what a summary says of a programme, in words."""
    held, seen, null, features = (row_of(table, *one) for one in ((RECIPE,), (RECIPE, "seen"), (OWN,), (RANDOM,)))
    said = "the held-out half of the programme rises" if beyond(table) else "nothing beyond its null: the held-out half moves"
    return (
        f"{name}: {said} by {held['rise']:+.2f} log1p CP10K in held-out cells ({held['sds']:+.1f} SDs; the "
        f"fitted half {seen['rise']:+.2f}) with {n_features} features; random programmes' own held-out halves "
        f"{null['sds']:+.1f} SDs (p = {held['p_program']:.2g}), random features {features['rise']:+.2f} "
        f"(p = {held['p_features']:.2g}), random programmes' recipes {row_of(table, CROSS)['rise']:+.2f} "
        f"(p = {held['p_cross']:.2g})."
    )
