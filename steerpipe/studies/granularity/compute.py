"""One target: its units, fitted on the fit's cells, scored on held-out ones, beside random units and the permutation null."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...config import ObjectiveConfig
from ...config.studies import GranularityConfig
from ...evaluate.granularity import (
    best_feature,
    best_group,
    first_features,
    gap_closed,
    members_of,
    off_target,
    random_groups,
    ranking,
    steady,
)
from ...evaluate.population import permutation_p
from ...evaluate.scorer import Scorer
from ...pipeline.artefact import built
from ...pipeline.experiment import Experiment, Sides
from ...pipeline.ladder import read_by, recipe_parents
from ...pipeline.problems import latent_problem
from ...pipeline.scoring import make_scorer, scored_key
from ...steering.intervene import add_vector
from ...steering.lasso import LatentProblem
from .targets import Target

VERSION = 2
SINGLE, MODULE, COMPONENT, WHOLE, DENSE = "best feature", "best module", "best component", "whole path", "dense vector"
THROUGH = (SINGLE, MODULE, COMPONENT, "4 features", "16 features", WHOLE)
"""Units that are run through the model, for their effect on expression; the dense vector is, too."""
MULTIPLY = "multiply"


@dataclass(frozen=True)
class Groups:
    """Groups of features that may share a theta: components of the feature graph, and its Louvain modules."""

    component: list[np.ndarray]
    module: list[np.ndarray]

    @classmethod
    def of(cls, experiment: Experiment) -> Groups:
        """Return those of the experiment's dictionary."""
        features = experiment.annotation.features
        return cls(*(members_of(features[name].to_numpy(np.int64)) for name in ("component", "module")))


@dataclass(frozen=True)
class Bench:
    """A target's means: all that a gap needs.

    Attributes
    ----------
    zbar : float64 (F,), mean code of the held-out source cells
    way : float64 (D,), from their mean to that of the held-out target cells
    W_dec : float64 (F, D)
    """

    experiment: Experiment
    target: Target
    objective: ObjectiveConfig

    @cached_property
    def zbar(self) -> np.ndarray:
        return np.asarray(self.experiment.zbar[self.target.held].mean(0))

    @cached_property
    def W_dec(self) -> np.ndarray:
        return np.asarray(self.experiment.sae.W_dec.detach().cpu().double().numpy())

    @cached_property
    def way(self) -> np.ndarray:
        here, there = self.experiment.cells[self.target.held], self.target.target_held
        ends = [np.asarray(self.experiment.layer[cells], np.float64).mean(0) for cells in (here, there)]
        return np.asarray(ends[1] - ends[0])

    def problem(self, sides: Sides) -> LatentProblem:
        """Return the latent problem of some rows of the fit."""
        among = steady(self.experiment.zbar[sides.source])
        return latent_problem(self.experiment, self.objective, [sides], among=among)

    def dense(self, sides: Sides) -> np.ndarray:
        """Return the mean difference (D,) of some rows of the fit."""
        source, target = (np.asarray(self.experiment.layer[self.experiment.cells[rows]], np.float64) for rows in sides)
        return np.asarray(target.mean(0) - source.mean(0))

    def shift(self, theta: np.ndarray) -> np.ndarray:
        """Return the mean shift (D,) of the held-out cells."""
        return np.asarray((theta * self.zbar) @ self.W_dec)

    def gap(self, theta: np.ndarray) -> float:
        """Return the share of the held-out way that a recipe goes."""
        return gap_closed(self.shift(theta), self.way)

    def units(self, sides: Sides, groups: Groups, sizes: list[int]) -> dict[str, np.ndarray]:
        """Return the thetas (F,) of every unit, fitted on some rows; `n features` for every size up to the whole path."""
        problem = self.problem(sides)
        order = ranking(problem)
        found = {SINGLE: best_feature(problem)}
        for name, some in ((COMPONENT, groups.component), (MODULE, groups.module)):
            if some:
                found[name] = best_group(problem, some)[1]
        found |= {f"{n} features": first_features(problem, order, n) for n in sizes if n <= len(order)}
        return found | {WHOLE: first_features(problem, order, len(order))}


def measured(experiment: Experiment, target: Target, groups: Groups) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a target's units and its random ones, kept in the store.

    Returns
    -------
    units : unit, n (features), gap, edistance, c2st, orthogonal, spread, off_target, expression_gap, expression_edistance (DE
        genes; NaN for units that are not run through the model), p, null_mean, null_lo, null_hi (of gap)
    random : draw, unit, n, gap
    """
    context, config = experiment.context, experiment.context.config
    objective, settings = replace(config.objective, name="latent"), config.granularity
    bench = Bench(experiment, target, objective)
    genes = experiment.side_genes(target.sides) if experiment.has_head else None
    how = make_scorer(experiment, target.held, target.target_held, target.sides, genes)

    def build(folder: Path) -> None:
        unit_table(bench, groups, how, settings).to_parquet(folder / "units.parquet", index=False)
        random_table(bench, groups, settings).to_parquet(folder / "random.parquet", index=False)

    reads = {
        "objective": read_by(experiment, objective),
        "sizes": settings.sizes,
        "n_random": settings.n_random,
        "n_permutations": settings.n_permutations,
        "others": np.round(target.others, 6).tolist(),
        **scored_key(experiment, how),
    }
    parents = [*recipe_parents(experiment, objective), experiment.annotation.artefact]
    path = built(context, "granularity", build, version=VERSION, reads=reads, parents=parents).path
    return pd.read_parquet(path / "units.parquet"), pd.read_parquet(path / "random.parquet")


def unit_table(bench: Bench, groups: Groups, how: Scorer, settings: GranularityConfig) -> pd.DataFrame:
    """Return the units of `measured`, on the held-out cells of a scorer."""
    experiment, sides = bench.experiment, bench.target.sides
    units = bench.units(sides, groups, settings.sizes)
    whole = int((units[WHOLE] != 0).sum())
    null = _dealt(bench, groups, [n for n in settings.sizes if n <= whole], settings.n_permutations)
    rows: list[dict[str, Any]] = []

    def add(name: str, n: int, shift: np.ndarray, values: Mapping[tuple[str, str], float]) -> None:
        row: dict[str, Any] = {"unit": name, "n": n} | {
            one: values["layer", one] for one in ("gap", "edistance", "c2st", "orthogonal", "spread")
        }
        row["off_target"] = off_target(shift, bench.way, bench.target.others)
        row |= {f"expression_{one}": values.get(("expression", one), float("nan")) for one in ("gap", "edistance")}
        test = permutation_p(row["gap"], np.array(null.get(name, [])), "higher")
        rows.append(row | {"p": test.p, "null_mean": test.mean, "null_lo": test.lo, "null_hi": test.hi})

    for name, theta in units.items():
        through = name in THROUGH and experiment.has_head
        values = how.values(how.recipe(theta, MULTIPLY)) if through else how.layer_values(how.shift(theta, MULTIPLY))
        add(name, int((theta != 0).sum()), bench.shift(theta), values)
    vector = bench.dense(sides)
    if experiment.has_head:
        edit = add_vector(torch.as_tensor(vector, dtype=torch.float32, device=experiment.cached.device))
        add(DENSE, 0, vector, how.values(how.state(edit)))
    else:
        add(DENSE, 0, vector, how.layer_values(np.tile(vector, (len(how.rows), 1))))
    return pd.DataFrame(rows)


def _dealt(bench: Bench, groups: Groups, sizes: list[int], n: int) -> dict[str, list[float]]:
    """The gap of every unit on the true held-out cells when the fit's cells are dealt anew between the sides."""
    source, target = bench.target.sides
    rng = np.random.default_rng([bench.experiment.context.config.seed, 83])
    found: dict[str, list[float]] = {}
    for _ in range(n):
        order = rng.permutation(np.concatenate([source, target]))
        sides = Sides(np.sort(order[: len(source)]), np.sort(order[len(source) :]))
        for name, theta in bench.units(sides, groups, sizes).items():
            found.setdefault(name, []).append(bench.gap(theta))
        found.setdefault(DENSE, []).append(gap_closed(bench.dense(sides), bench.way))
    return found


def random_table(bench: Bench, groups: Groups, settings: GranularityConfig) -> pd.DataFrame:
    """Features ranked at random, and the best of as many groups of random features, fitted as the true ones are."""
    problem = bench.problem(bench.target.sides)
    rng = np.random.default_rng([bench.experiment.context.config.seed, 84])
    activity = bench.experiment.activity[bench.target.sides.source].mean(0)
    free, rows = np.flatnonzero(problem.free), []
    for draw in range(settings.n_random):
        order = rng.permutation(free)
        for size in settings.sizes:
            if size <= len(order):
                gap = bench.gap(first_features(problem, order, size))
                rows.append({"draw": draw, "unit": "features", "n": size, "gap": gap})
        for name, some in ((COMPONENT, groups.component), (MODULE, groups.module)):
            if some:
                drawn = random_groups(some, activity, problem.free, rng)
                theta = best_group(problem, drawn)[1]
                rows.append({"draw": draw, "unit": name, "n": int((theta != 0).sum()), "gap": bench.gap(theta)})
    return pd.DataFrame(rows, columns=["draw", "unit", "n", "gap"])
