"""A recipe fitted on some cell types, scored on the held-out cells of others.

Every fit aims each type's source cells at that type's own target cells, so that the recipe is of the perturbation and not
of the types. Scores are of held-out cells towards their own type's held-out target cells, against a null in which every
type's cells are dealt anew between its sides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...config import ObjectiveConfig, as_dict
from ...data.labels import find_label
from ...errors import SteerError, unknown
from ...evaluate.de import gap_fraction
from ...evaluate.inference import add_null
from ...evaluate.recruitment import counts
from ...evaluate.scorer import Scorer
from ...pipeline.artefact import built
from ...pipeline.experiment import Experiment, Sides
from ...pipeline.ladder import cells_key, read_by, recipe_parents
from ...pipeline.problems import solve
from ...pipeline.scoring import judged, make_scorer
from ...progress import track
from ...steering.controls import mean_difference, random_recipe
from ...steering.intervene import State, add_vector

log = logging.getLogger(__name__)
VERSION = 2
MIN_HELD = 4
REST = "all others"
OBJECTIVES = ("latent", "expression")


@dataclass(frozen=True)
class Group:
    """One type's cells: rows of the experiment, but for held-out target cells, which are positions in the dataset."""

    name: str
    fit: np.ndarray
    held: np.ndarray
    target_fit: np.ndarray
    target_held: np.ndarray

    @property
    def sides(self) -> Sides:
        """The rows of its fit."""
        return Sides(self.fit, self.target_fit)


@dataclass(frozen=True)
class Fits:
    """Every recipe: of each objective on each type and on all but each."""

    experiment: Experiment
    groups: Sequence[Group]

    def members(self, name: str) -> list[Group]:
        """Return the types that a fit of this name stands on: itself, or all others."""
        alone = [g for g in self.groups if g.name == name]
        return alone or [g for g in self.groups if REST + " than " + g.name != name]

    @cached_property
    def names(self) -> list[str]:
        """All others than each type, then each type."""
        return [*(REST + " than " + g.name for g in self.groups), *(g.name for g in self.groups)]

    @cached_property
    def all(self) -> dict[tuple[str, str], tuple[np.ndarray, dict[str, Any]]]:
        """(objective, name) -> theta (F,) and its size."""
        objective = self.experiment.context.config.objective
        todo = [(o, name) for o in OBJECTIVES for name in self.names]
        return {
            (o, name): fit_groups(self.experiment, self.members(name), replace(objective, name=o))
            for o, name in track(todo, "fits", len(todo))
        }


def find_groups(experiment: Experiment) -> list[Group]:
    """Return the configured types, or those with most cells.

    Raises
    ------
    SteerError
        No such column or type, or fewer than two types with enough cells on both sides.
    """
    config = experiment.context.config
    settings, split, obs = config.transfer, experiment.split, experiment.activations.obs
    by = settings.by or config.dataset.label
    if by is None or by not in obs:
        raise unknown("column transfer.by", by, obs.columns)
    labels = obs[by].astype(str).to_numpy()
    sides = [pd.Series(labels[cells]).value_counts() for cells in (split.source, split.target)]
    smaller = pd.concat(sides, axis=1).min(axis=1, skipna=False).dropna().sort_values(ascending=False, kind="stable")
    chosen = [find_label(name, smaller.index, what="type in transfer.types") for name in settings.types]
    enough = smaller[smaller >= settings.min_cells].index.tolist()
    names = chosen or enough[: settings.n_types]
    groups = []
    for name in names:
        parts = [labels[split.source_fit], labels[split.source_held], labels[split.target_fit], labels[split.target_held]]
        fit, held, target_fit, target_held = (np.flatnonzero(part == name) for part in parts)
        rows = experiment.sides
        held_rows = experiment.held_rows[held]
        groups.append(Group(name, rows.source[fit], held_rows, rows.target[target_fit], split.target_held[target_held]))
    few = [g for g in groups if min(len(g.held), len(g.target_held)) < MIN_HELD or g.name not in enough]
    if len(groups) < 2 or few:
        have = ", ".join(f"{name} ({int(n)})" for name, n in smaller.items())
        raise SteerError(
            f"transfer needs two types with transfer.min_cells={settings.min_cells} cells on both sides, {MIN_HELD} of them "
            f"held out; there are: {have}."
        )
    return groups


def score_all(experiment: Experiment, groups: Sequence[Group]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return scores (see evaluate.inference.COLUMNS), gap fractions per gene, and the recipes' sizes.

    Further columns of the scores: score_on, fit_on, relation, objective. Recipes on their own type and transferred ones have
    a null; those of single other types are for the matrix.
    """
    config = experiment.context.config
    fits = Fits(experiment, groups)
    rows, nulls, genes = [], [], []
    for group in track(groups, "scores", len(groups)):
        how = make_scorer(experiment, group.held, group.target_held, group.sides, experiment.side_genes(group.sides))
        for label, state in _trials(fits, group, how):
            random = label["relation"].startswith("random")
            rows += [{**label, "split": "held", **row} for row in how.rows_of(state, intervals=not random)]
            if label["relation"] in ("own", "transferred", "no change"):
                gaps = gap_fraction(how.base.expression, state.expression, how.goal.expression, experiment.genes)
                genes.append(gaps.assign(**label))
        for objective in OBJECTIVES:
            for relation, name in (("own", group.name), ("transferred", REST + " than " + group.name)):
                sides = [g.sides for g in fits.members(name)]
                null, _ = judged(experiment, replace(config.objective, name=objective), how, sides)
                nulls.append(null.assign(recipe=_title(objective, relation, group.name), split="held"))
    keys = ["recipe", "score_on", "fit_on", "relation", "objective", "kind", "split", "space", "score", "resampled"]
    seeds = pd.DataFrame(rows).groupby(keys, sort=False)
    scores = seeds.mean().reset_index().assign(dictionaries=1, seeds=seeds.size().to_numpy())  # random controls: over seeds
    sizes = [{"objective": o, "fit_on": name, **info} for (o, name), (_, info) in fits.all.items()]
    return add_null(scores, pd.concat(nulls, ignore_index=True)), pd.concat(genes, ignore_index=True), pd.DataFrame(sizes)


def _title(objective: str, relation: str, score_on: str, fit_on: str = "") -> str:
    how = f"fitted on {fit_on}" if relation == "single type" else relation
    return f"{objective}, {how}, on {score_on}" if objective != "none" else f"{how}, on {score_on}"


def _trials(fits: Fits, group: Group, how: Scorer) -> Iterator[tuple[dict[str, str], State]]:
    """Every edit that one type is scored on."""
    experiment, config = fits.experiment, fits.experiment.context.config
    rest = REST + " than " + group.name
    rng = np.random.default_rng([config.seed, 7])

    def label(relation: str, fit_on: str, objective: str, kind: str) -> dict[str, str]:
        title = _title(objective, relation, group.name, fit_on)
        where = {"score_on": group.name, "fit_on": fit_on, "relation": relation}
        return {"recipe": title, "kind": kind, **where, "objective": objective}

    for objective in OBJECTIVES:
        for other in (rest, *(g.name for g in fits.groups)):
            relation = "own" if other == group.name else "transferred" if other == rest else "single type"
            name = REST if other == rest else other
            yield label(relation, name, objective, "recipe"), how.recipe(fits.all[objective, other][0], config.objective.mode)
        for _ in range(config.transfer.n_random):
            theta = random_recipe(fits.all[objective, rest][0], experiment.active, rng)
            yield label("random features, as transferred", REST, objective, "control"), how.recipe(theta, config.objective.mode)
    yield label("no change", "", "none", "control"), how.base
    shifts = [
        mean_difference(experiment.layer[experiment.cells[g.fit]], experiment.layer[experiment.cells[g.target_fit]])
        for g in fits.groups
        if g is not group
    ]
    vector = torch.as_tensor(np.mean(shifts, axis=0), dtype=torch.float32, device=experiment.cached.device)
    yield label("mean difference (dense)", REST, "none", "control"), how.state(add_vector(vector))


def fit_groups(
    experiment: Experiment, groups: Sequence[Group], objective: ObjectiveConfig
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return theta (F,) of one objective on several types, each towards its own target, and its size.

    The latent fit is exact. The expression fit is the mean over types of their objectives, each with its own gene weights and
    an equal share of objective.max_cells.
    """
    lam, sides = experiment.context.config.lam, [g.sides for g in groups]
    settings = {"objective": read_by(experiment, objective), "lambda": as_dict(lam), **cells_key(experiment, sides)}

    def build(folder: Path) -> None:
        found = solve(experiment, objective, sides, lam)
        np.save(folder / "theta.npy", found.theta)
        np.save(folder / "ratio.npy", found.ratio)

    parents = recipe_parents(experiment, objective)
    path = built(experiment.context, "transfer-fit", build, version=VERSION, reads=settings, parents=parents).path
    theta = np.load(path / "theta.npy")
    return theta, {"ratio": float(np.load(path / "ratio.npy")), **counts(theta)}
