"""Task B: from a perturbation's name to a recipe, and from that to a profile, beside everything that is simpler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ...digest import array_digest
from ...evaluate.de import expressed_genes
from ...evaluate.prediction import gene_weights
from ...evaluate.scorer import Scorer
from ...pipeline.activations import load_cells, measured_expression
from ...pipeline.artefact import built, save_arrays
from ...pipeline.experiment import Experiment, Sides
from ...pipeline.scoring import make_scorer
from ...progress import track
from ...steering.adapters import Tasks, recipes
from ...steering.intervene import add_vector
from ...steering.lasso import LatentProblem
from .baselines import baselines
from .genes import gene_features
from .targets import EVERYWHERE, Target
from .training import State, mixing, trained

VERSION = 1
FITTED, DENSE, CEILING = "fitted recipe", "dense vector", "other cells"
CONTROL_MEAN = "control mean"
TOP = 3
"""Features of a recipe that are left out, one at a time."""


@dataclass
class Predicted:
    """What every arm predicts for every target.

    Attributes
    ----------
    changes : {arm: float64 (T, G)}, mean change of log1p CP10K; NaN where an arm has none
    null : {network: float64 (n_shuffled, T, G)}
    thetas : {network, or FITTED: float64 (T, F)}
    dropped : {network: {target number: {feature: (G,)}}}, the change without one feature
    """

    changes: dict[str, np.ndarray] = field(default_factory=dict)
    null: dict[str, np.ndarray] = field(default_factory=dict)
    thetas: dict[str, np.ndarray] = field(default_factory=dict)
    dropped: dict[str, dict[int, dict[int, np.ndarray]]] = field(default_factory=dict)


class Bench:
    """The targets of an experiment: measured, embedded, and what is known of their genes."""

    def __init__(self, experiment: Experiment, targets: list[Target]) -> None:
        self.experiment, self.targets = experiment, targets
        self.state = State(experiment)
        self.source = load_cells(experiment.context.config, experiment.cached.model.genes)
        self._scorers: dict[tuple[int, ...], Scorer] = {}
        self._means: dict[str, np.ndarray] = {}
        self._weights: dict[int, np.ndarray] = {}

    def measured(self, positions: np.ndarray) -> np.ndarray:
        """Measured log1p CP10K (n, G_valid) of some of the dataset's cells."""
        return measured_expression(self.source, positions).astype(np.float64)

    def means(self, what: str) -> np.ndarray:
        """Mean profile (T, G) of each target's control, held, known or scored cells."""
        if what not in self._means:
            some = [getattr(one, what) for one in self.targets]
            if what in ("control", "held"):  # rows of the experiment's cells
                some = [self.experiment.cells[rows] for rows in some]
            self._means[what] = np.array([self.measured(cells).mean(0) for cells in some])
        return self._means[what]

    @cached_property
    def real(self) -> np.ndarray:
        """Real change (T, G): scored cells less held-out control."""
        return np.asarray(self.means("scored") - self.means("held"))

    @cached_property
    def known(self) -> np.ndarray:
        """Change (T, G) between the cells that training may see."""
        return np.asarray(self.means("known") - self.means("control"))

    @cached_property
    def among(self) -> np.ndarray:
        """bool (G,): genes that the control cells to fit on express."""
        rows = np.unique(np.concatenate([one.control for one in self.targets]))
        return expressed_genes(self.experiment.counts[rows])

    @cached_property
    def features(self) -> tuple[np.ndarray, list[str]]:
        """What is known of each target, (T, P): its genes' features summed; with cell types, where the control cells are."""
        genes = sorted({gene for one in self.targets for gene in one.genes})
        controls = np.unique(np.concatenate([one.control for one in self.targets]))
        table, names = gene_features(self.experiment, genes, self.measured(self.experiment.cells[controls]).mean(0))
        row = {gene: i for i, gene in enumerate(genes)}
        found = np.array([sum((table[row[gene]] for gene in one.genes), np.zeros(table.shape[1])) for one in self.targets])
        if any(one.context != EVERYWHERE for one in self.targets):
            where = np.array([self.state.layer[one.control].mean(0) for one in self.targets])
            where = where - where.mean(0)
            found = np.concatenate([found, where / max(float(np.linalg.norm(where, axis=1).mean()), 1e-12)], 1)
            names = [*names, f"control cells' embedding ({where.shape[1]} columns)"]
        return found, names

    def weights(self, number: int) -> np.ndarray:
        """Weights (n_among,) of a target's genes in the weighted error, by its scored and held-out control cells."""
        if number not in self._weights:
            one = self.targets[number]
            control, scored = self.measured(self.experiment.cells[one.held]), self.measured(one.scored)
            self._weights[number] = gene_weights(control[:, self.among], scored[:, self.among])
        return self._weights[number]

    def embedded(self, positions: np.ndarray) -> np.ndarray:
        """Embeddings at the layer, float64 (n, D), of some of the dataset's cells."""
        return np.asarray(self.experiment.layer[positions], np.float64)

    def scorer(self, target: Target) -> Scorer:
        """What runs a target's held-out control cells through the model."""
        key = tuple(target.steered)
        if key not in self._scorers:
            self._scorers[key] = make_scorer(
                self.experiment, target.steered, target.scored, Sides(target.control, target.control), None
            )
        return self._scorers[key]

    def change(self, target: Target, theta: np.ndarray) -> np.ndarray:
        """Return the mean change (G,) of predicted expression that a recipe (F,) makes in held-out control cells."""
        how = self.scorer(target)
        if not theta.any():
            return np.zeros(len(self.experiment.genes))
        return self._change(how, how.recipe(theta, "multiply").expression)

    def dense(self, target: Target) -> np.ndarray:
        """Return the same of the vector from the control's mean to that of the known perturbed cells."""
        vector = self.embedded(target.known).mean(0) - self.state.layer[target.control].mean(0)
        how = self.scorer(target)
        edit = add_vector(torch.as_tensor(vector, dtype=torch.float32, device=self.experiment.cached.device))
        return self._change(how, how.state(edit).expression)

    @staticmethod
    def _change(how: Scorer, after: np.ndarray) -> np.ndarray:
        return np.asarray(after.astype(np.float64).mean(0) - how.base.expression.astype(np.float64).mean(0))


def tasks(bench: Bench, numbers: list[int], inputs: np.ndarray, lam: float) -> Tasks:
    """Return the tasks of whole populations: known cells as targets, whose gaps the networks are not shown."""
    some = [bench.targets[i] for i in numbers]
    zbar = np.array([bench.state.codes[one.control].mean(0) for one in some])
    gaps = np.array([bench.embedded(one.known).mean(0) - bench.state.layer[one.control].mean(0) for one in some])
    return Tasks.of(inputs[numbers], zbar, gaps, np.full(len(some), lam))


def drawn(
    bench: Bench, training: list[int], inputs: np.ndarray, lam: float, batch: int
) -> Callable[[np.random.Generator], Tasks]:
    """Return what draws training targets with bootstraps of their cells."""
    state = bench.state
    controls = [bench.targets[i].control for i in training]
    perturbed = [bench.embedded(bench.targets[i].known) for i in training]

    def draw(rng: np.random.Generator) -> Tasks:
        which = rng.integers(len(training), size=batch)
        source = mixing([controls[i] for i in which], len(state.codes), rng)
        goal = np.array([mixing([np.arange(len(perturbed[i]))], len(perturbed[i]), rng)[0] @ perturbed[i] for i in which])
        return Tasks.of(
            inputs[[training[i] for i in which]], source @ state.codes, goal - source @ state.layer, np.full(batch, lam)
        )

    return draw


def usual(bench: Bench, training: list[int]) -> tuple[float, float]:
    """Return the length of a usual gap and the mean penalty of the training targets."""
    whole = tasks(bench, training, np.zeros((len(bench.targets), 0)), 0.0)
    gaps, zbar = whole.gaps.double().numpy(), whole.zbar.double().numpy()
    return float(np.sqrt((gaps**2).sum(1).mean())), float(bench.state.weights(zbar, gaps).mean())


def predict(bench: Bench, parts: list[tuple[list[int], list[int]]]) -> Predicted:
    """Return every arm's predictions of the targets that are left out, fold by fold, kept in the store."""
    experiment, found = bench.experiment, Predicted()
    settings = experiment.context.config.adapter
    shape = (len(bench.targets), len(experiment.genes))
    inputs, _ = bench.features

    def put(where: dict[str, np.ndarray], name: str, rows: list[int], values: np.ndarray) -> None:
        where.setdefault(name, np.full((len(bench.targets), values.shape[1]), np.nan))[rows] = values

    for training, scored in parts:
        for name, values in baselines(bench.targets, training, scored, bench.known, inputs, settings).items():
            put(found.changes, name, scored, values)
        put(found.changes, CONTROL_MEAN, scored, (bench.means("control") - bench.means("held"))[scored])
        put(found.changes, CEILING, scored, bench.known[scored])
        exact = np.array([_fitted(bench, bench.targets[i]) for i in scored])
        put(found.thetas, FITTED, scored, exact)
        put(found.changes, FITTED, scored, _through(bench, scored, exact, "fitted"))
        put(found.changes, DENSE, scored, _dense(bench, scored))
        scale, lam = usual(bench, training)
        for name in settings.networks:
            thetas = _networks(bench, name, training, scored, inputs, lam, scale)
            put(found.thetas, name, scored, thetas[0])
            changes = np.array(
                [_through(bench, scored, theta, name) for theta in track(thetas, f"{name}, its null", len(thetas))]
            )
            put(found.changes, name, scored, changes[0])
            null = found.null.setdefault(name, np.full((settings.n_shuffled, *shape), np.nan))
            null[:, scored] = changes[1:]
        for i in scored:
            for name in settings.networks:
                mine = found.thetas[name][i]
                kept = found.dropped.setdefault(name, {}).setdefault(i, {})
                for feature in strongest(bench, bench.targets[i], mine)[:TOP]:
                    without = np.where(np.arange(len(mine)) == feature, 0.0, mine)
                    kept[int(feature)] = _through(bench, [i], without[None], "without one")[0]
    return found


def strongest(bench: Bench, target: Target, theta: np.ndarray) -> np.ndarray:
    """Return the features of a recipe, those that move the control's mean most first."""
    size = np.abs(theta * bench.state.codes[target.control].mean(0)) * np.linalg.norm(bench.state.W, axis=1)
    order = np.argsort(-size, kind="stable")
    return np.asarray(order[theta[order] != 0])


def _fitted(bench: Bench, target: Target) -> np.ndarray:
    """The exact recipe of the known cells: what an adapter would do if it knew the target."""
    state = bench.state
    zbar, start = (rows[target.control].mean(0, keepdims=True) for rows in (state.codes, state.layer))
    problem = LatentProblem(zbar, state.W, start, bench.embedded(target.known).mean(0))
    return problem.solve(float(state.weights(problem.z, problem.gap_vectors)[0])).theta


def _networks(
    bench: Bench, name: str, training: list[int], scored: list[int], inputs: np.ndarray, lam: float, scale: float
) -> np.ndarray:
    """Recipes (1 + n_shuffled, scored, F) of a network, and of the same trained with targets dealt among the perturbations."""
    experiment = bench.experiment
    settings, seed = experiment.context.config.adapter, experiment.context.config.seed
    found = []
    for number in range(1 + settings.n_shuffled):
        seen = inputs.copy()
        if number:
            dealt = np.random.default_rng([seed, 112, number]).permutation(len(training))
            seen[training] = inputs[[training[i] for i in dealt]]
        draw = drawn(bench, training, seen, lam, settings.batch)
        cells = [part for i in training for part in (bench.targets[i].known, experiment.cells[bench.targets[i].control])]
        reads = {"cells": array_digest(*cells), "features": array_digest(seen[training]), "penalty": lam}
        adapter, _ = trained(experiment, name, inputs.shape[1], draw, bench.state, reads, seed=seed, scale=scale)
        found.append(recipes(adapter, tasks(bench, scored, inputs, lam)))
    return np.array(found)


def _through(bench: Bench, numbers: list[int], thetas: np.ndarray, name: str) -> np.ndarray:
    """Changes (n, G) that recipes (n, F) make in their targets' held-out control cells, kept in the store."""
    experiment = bench.experiment

    def build(folder: Path) -> None:
        rows = [bench.change(bench.targets[i], theta) for i, theta in zip(numbers, thetas, strict=True)]
        save_arrays(folder / "changes.npy", np.array(rows))

    cells = [experiment.cells[bench.targets[i].steered] for i in numbers]
    return _kept(experiment, build, {"what": "recipe", "theta": array_digest(thetas), "cells": array_digest(*cells)})


def _dense(bench: Bench, numbers: list[int]) -> np.ndarray:
    experiment = bench.experiment

    def build(folder: Path) -> None:
        save_arrays(folder / "changes.npy", np.array([bench.dense(bench.targets[i]) for i in numbers]))

    some = [bench.targets[i] for i in numbers]
    cells = [part for one in some for part in (experiment.cells[one.steered], experiment.cells[one.control], one.known)]
    return _kept(experiment, build, {"what": "dense", "theta": "", "cells": array_digest(*cells)})


def _kept(experiment: Experiment, build: Callable[[Path], None], reads: Mapping[str, object]) -> np.ndarray:
    config = experiment.context.config
    key = dict(reads) | {"tokens": config.objective.tokens, "max_cells": config.evaluate.max_cells, "seed": config.seed}
    parents = [experiment.streams, experiment.dictionary.artefact]
    path = built(experiment.context, "adapter-changes", build, version=VERSION, reads=key, parents=parents).path
    return np.asarray(np.load(path / "changes.npy"))
