"""The parts of the recruitment diagnosis, each keyed in the store: what a killed run did is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ..activations.extract import model_inputs
from ..config import LambdaConfig, ObjectiveConfig
from ..evaluate.de import de_signs, expressed_genes
from ..evaluate.entanglement import entanglement, gene_activity, participation_set
from ..evaluate.floors import effect_and_null, matched_features, permuted_cells, recruited_share
from ..evaluate.recruitment import counts
from ..evaluate.tables import wide
from ..progress import track
from ..store import Artefact
from .common import kept
from .experiment import Experiment, Sides, prepare
from .expression import cells_key, read_by
from .extract import load_cells
from .fit import Recipe, fit
from .null import deal, null_recipes
from .problems import Groups, latent_problem, model_objective, solve
from .scoring import scored, scorer

log = logging.getLogger(__name__)
VERSION = 2
NAMES = ("latent", "expression")
GRID = np.geomspace(1, 1e-3, 200)
"""Lambda ratios among which the latent fit of a given number of features is looked for."""


def fit_both(experiment: Experiment) -> dict[str, Recipe]:
    """Return the latent and the expression recipe at the configured lambda ratio."""
    return {name: fit(experiment, _objective(experiment, name)) for name in NAMES}


def at_ratio(experiment: Experiment, ratio: float) -> Experiment:
    """Return the experiment with another lambda ratio."""
    config = experiment.context.config
    config = replace(config, lam=replace(config.lam, mode="ratio", value=ratio))
    return replace(experiment, context=replace(experiment.context, config=config))


def cap(experiment: Experiment, top_n: Sequence[int]) -> pd.DataFrame:
    """Refit the expression objective on its n strongest genes; one row an n: counts and held-out scores."""
    n_seen = int(experiment.seen_genes.sum())
    sizes: list[int | None] = [*sorted({n for n in top_n if n < n_seen}), None]  # a cap above that caps nothing
    rows = []
    for n in track(sizes, "gene cap", len(sizes)):
        recipe = fit(experiment, replace(_objective(experiment, "expression"), top_n=n))
        rows.append({"top_n": "all" if n is None else str(n), "n_genes": n or n_seen, **_row(experiment, recipe)})
    return pd.DataFrame(rows)


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
                codes = sae.encode(cached.model.stream(values, cached.layer)[:, tokens])
                sizes = codes.values.abs().double().flatten().cpu().numpy()
                total += np.bincount(codes.indices.flatten().cpu().numpy(), sizes, sae.n_features)
        return total / (len(cells) * len(cached.valid))

    path = _store(experiment, "diagnose-activation", settings, build)
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

    path = _store(experiment, "diagnose-effect", {"n_matched": n_matched}, build, [recipe.artefact])
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
    seed = experiment.context.config.seed

    def build(folder: Path) -> None:
        for number in track(range(len(thetas)), f"effects of the null, {recipe.objective}", len(thetas)):
            kept(folder / f"{number:04d}.npy", partial(one, number))

    def one(number: int) -> np.ndarray:
        theta = thetas[number]
        value = value_of(experiment, recipe.settings, deal([experiment.sides], seed, number))
        loss = value(theta)
        return np.array([value(np.where(np.arange(len(theta)) == f, 0.0, theta)) - loss for f in np.flatnonzero(theta)])

    path = _store(experiment, "diagnose-null", {}, build, [null])
    return [np.load(path / f"{number:04d}.npy") for number in range(len(thetas))]


def lambda_path(experiment: Experiment, recipes: dict[str, Recipe], ratios: Sequence[float]) -> pd.DataFrame:
    """Return counts at all thresholds over the lambda ratio: the latent path, and expression fits at some ratios."""
    own = recipes["expression"].info["ratio"]
    wanted = sorted({*ratios, own}, reverse=True)
    fits = [fit(at_ratio(experiment, r), _objective(experiment, "expression")) for r in track(wanted, "path", len(wanted))]
    zero = {"ratio": 1.0, **counts(np.zeros(1))}
    rows = [zero, *({"ratio": f.info["ratio"], **counts(f.theta)} for f in fits)]
    latent = recipes["latent"].path[list(zero)].assign(objective="latent")
    return pd.concat([latent, pd.DataFrame(rows).assign(objective="expression")], ignore_index=True)


def equal_tables(experiment: Experiment, recipes: dict[str, Recipe], ratios: Sequence[float]) -> pd.DataFrame:
    """Put the two objectives side by side, at equal lambda ratio and at equal feature count, with held-out scores.

    The latent path is exact and cheap, so the latent recipe is brought to the expression recipe's number of features; the
    other way round, the expression fit among `ratios` whose number is nearest to the latent recipe's is taken.
    """
    latent, expression = recipes["latent"], recipes["expression"]
    rows = [{"equal": "ratio", **_row(experiment, recipe)} for recipe in recipes.values()]
    problem = latent_problem(experiment, latent.settings)
    fits = problem.path(GRID * problem.lam_max)
    wanted = counts(expression.theta)["n_1e-06"]
    nearest = min(fits, key=lambda f: abs(counts(f.theta)["n_1e-06"] - wanted))
    equal = fit(at_ratio(experiment, nearest.lam / problem.lam_max), latent.settings)
    rows += [{"equal": "count (expression's)", **_row(experiment, recipe)} for recipe in (equal, expression)]
    ladder = [expression, *(fit(at_ratio(experiment, r), _objective(experiment, "expression")) for r in ratios)]
    close = min(ladder, key=lambda f: abs(counts(f.theta)["n_1e-06"] - counts(latent.theta)["n_1e-06"]))
    rows += [{"equal": "count (latent's)", **_row(experiment, recipe)} for recipe in (latent, close)]
    return pd.DataFrame(rows)


def stability(experiment: Experiment, name: str, *, n_refits: int, n_cells: int, max_steps: int) -> np.ndarray:
    """Return the share of half-sample refits that recruit each feature, (F,).

    A refit sees half of the fit's source cells and half of its target cells, at the lambda ratio of the recipe. The latent
    ones are exact; the expression ones take at most n_cells cells and max_steps steps a rung. Cost of one: some max_steps
    gradients of n_cells cells.
    """
    ratio = LambdaConfig(mode="ratio", value=experiment.context.config.lam.value)
    objective = _objective(experiment, name)
    settings: dict[str, Any] = {"n_refits": n_refits, "ratio": ratio.value, "objective": read_by(objective)}
    settings |= cells_key(experiment)
    if name == "expression":
        settings |= {"n_cells": n_cells, "max_steps": max_steps}

    def build(folder: Path) -> None:
        for number in track(range(n_refits), f"refits, {name}", n_refits):
            kept(folder / f"{number:04d}.npy", partial(one, number))
        np.save(folder / "thetas.npy", np.stack([np.load(folder / f"{number:04d}.npy") for number in range(n_refits)]))
        for number in range(n_refits):
            (folder / f"{number:04d}.npy").unlink()

    def one(number: int) -> np.ndarray:
        rng = np.random.default_rng([experiment.context.config.seed, 6, number])
        halves = Sides(*(_half(rows, rng) for rows in experiment.sides))
        return solve(experiment, replace(objective, max_steps=max_steps), [halves], ratio, max_cells=n_cells, direct=True).theta

    return recruited_share(np.load(_store(experiment, "diagnose-refits", settings, build) / "thetas.npy"))


def widths(experiment: Experiment, expansions: Sequence[int]) -> pd.DataFrame:
    """Fit both objectives on dictionaries of several widths; a row a dictionary and objective."""
    config = experiment.context.config
    if config.sae.path is not None:
        log.info("widths: left out, since an imported dictionary (sae.path) has no other widths")
        return pd.DataFrame()
    rows = []
    for expansion in sorted({config.sae.expansion, *expansions}):
        sae = replace(config.sae, expansion=expansion)
        other = experiment
        if expansion != config.sae.expansion:
            other = prepare(replace(experiment.context, config=replace(config, sae=sae)))
        tangle = tangled(other)
        scores = other.dictionary.scores
        size: dict[str, Any] = {
            "features": other.sae.n_features,
            "active": int(other.active.sum()),
            "fvu": scores["sae_held/fvu"],
        }
        size["entanglement_active"] = _mean(tangle[other.active])
        for recipe in fit_both(other).values():
            mean = _mean(tangle[recipe.theta != 0])
            rows.append({"sae": f"x{expansion}_k{sae.k}", **size, "entanglement": mean, **_row(other, recipe)})
    return pd.DataFrame(rows)


def tangled(experiment: Experiment) -> np.ndarray:
    """Return the entanglement of every active feature on the fit's source cells, (F,); NaN where it has no DE gene."""
    split, rows, y = experiment.split, experiment.fit_rows, experiment.expression
    signs = de_signs(y[split.source_fit], y[split.target_fit], expressed_genes(experiment.counts[rows]))
    on = np.flatnonzero(experiment.active)
    batch = experiment.context.config.model.batch_size
    activity = gene_activity(experiment.cached, experiment.dictionary.sae, on, rows, batch_size=batch)
    sets = {int(f): participation_set(genes) for f, genes in zip(on, activity, strict=True)}
    found = np.full(experiment.sae.n_features, np.nan)
    found[on] = entanglement(sets, signs)["entanglement"]
    return found


def _mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN where all is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _objective(experiment: Experiment, name: str) -> ObjectiveConfig:
    return replace(experiment.context.config.objective, name=name)


def _half(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the cells."""
    return np.sort(rng.permutation(cells)[: max(1, len(cells) // 2)])


def _row(experiment: Experiment, recipe: Recipe) -> dict[str, Any]:
    """A recipe's name, ratio, counts and held-out scores, each with its p."""
    size: dict[str, Any] = {"objective": recipe.settings.name, "ratio": recipe.info["ratio"], **counts(recipe.theta)}
    return size | wide(scored(experiment, recipe, scorer(experiment), recipe.objective))


def _store(
    experiment: Experiment,
    stage: str,
    settings: dict[str, Any],
    build: Callable[[Path], None],
    parents: Sequence[Artefact] = (),
) -> Path:
    inputs = [experiment.streams, experiment.dictionary.artefact, *parents]
    return experiment.context.store.get(stage, version=VERSION, config=settings, parents=inputs, build=build).path
