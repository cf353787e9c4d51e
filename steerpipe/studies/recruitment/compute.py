"""The fits that the diagnosis puts side by side: gene caps, lambdas, refits, widths; what a killed run did is kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...config import LambdaConfig, ObjectiveConfig
from ...evaluate.de import de_signs, expressed_genes
from ...evaluate.entanglement import entanglement, gene_activity, participation_set
from ...evaluate.floors import recruited_share
from ...evaluate.recruitment import counts
from ...evaluate.tables import wide
from ...pipeline.artefact import kept
from ...pipeline.experiment import Experiment, Sides, prepare
from ...pipeline.fit import Recipe, fit
from ...pipeline.ladder import cells_key, read_by
from ...pipeline.problems import latent_problem, solve
from ...pipeline.scoring import scored, scorer
from ...progress import track
from .floors import stored

log = logging.getLogger(__name__)
VERSION = 2
NAMES = ("latent", "expression")
GRID = np.geomspace(1, 1e-3, 200)
"""Lambda ratios among which the latent fit of a given number of features is looked for."""


def fit_both(experiment: Experiment) -> dict[str, Recipe]:
    """Return the latent and the expression recipe at the configured lambda ratio; the programme's with objective=program."""
    own = experiment.context.config.objective.name
    return {
        name: fit(experiment, _objective(experiment, name)) for name in (*NAMES, *(["program"] if own == "program" else []))
    }


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
    ones are exact; those through the model take at most n_cells cells and max_steps steps a rung. Cost of one: some max_steps
    gradients of n_cells cells.
    """
    ratio = LambdaConfig(mode="ratio", value=experiment.context.config.lam.value)
    objective = _objective(experiment, name)
    settings: dict[str, Any] = {"n_refits": n_refits, "ratio": ratio.value, "objective": read_by(experiment, objective)}
    settings |= cells_key(experiment)
    if name != "latent":
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

    return recruited_share(np.load(stored(experiment, "diagnose-refits", settings, build) / "thetas.npy"))


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
