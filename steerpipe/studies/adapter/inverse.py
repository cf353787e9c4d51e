"""Task A: from a source and a target state to a recipe; the exact lasso is the oracle, scored labels were never trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ...config import as_dict
from ...digest import array_digest
from ...evaluate.population import permutation_p
from ...evaluate.scorer import Scorer
from ...pipeline.artefact import built
from ...pipeline.experiment import Experiment, Sides
from ...pipeline.null import deal
from ...pipeline.problems import latent_problem, model_objective, weight_of
from ...pipeline.scoring import make_scorer, scored_key
from ...progress import track
from ...steering.adapters import Adapter, Tasks, recipes
from ..labelled import chosen_labels
from .training import State, mixing, trained

VERSION = 1
EXACT, SHUFFLED = "exact", "shuffled"
MIXED = 0.3
"""Share of the training targets that are mixtures of two labels."""
HEADLINE = ("edistance", "gap", "orthogonal", "probe", "c2st", "spread")


@dataclass(frozen=True)
class Pair:
    """A change from one label to another that no adapter of its fold was trained towards.

    Attributes
    ----------
    sides : rows of the fit
    held : rows of the held-out source cells
    target_held : held-out target cells, as positions in the dataset
    """

    source: str
    target: str
    fold: int
    sides: Sides
    held: np.ndarray
    target_held: np.ndarray

    @property
    def name(self) -> str:
        """`A -> B`."""
        return f"{self.source} -> {self.target}"


def find_pairs(experiment: Experiment) -> tuple[list[Pair], dict[str, int], dict[str, np.ndarray]]:
    """Return every ordered pair of labels, each label's fold, and its rows to fit on."""
    config = experiment.context.config
    assert config.dataset.label is not None
    every = experiment.activations.obs[config.dataset.label].astype(str).to_numpy()[experiment.cells]
    names = chosen_labels(config, experiment.activations.obs, "adapter")
    rng = np.random.default_rng([config.seed, 101])
    n_folds = min(config.adapter.folds, len(names))
    folds = {name: at % n_folds for at, name in enumerate(rng.permutation(names))}
    fit, held = ({name: rows[every[rows] == name] for name in names} for rows in (experiment.fit_rows, experiment.held_rows))
    some = {name: np.sort(rng.permutation(rows)[: config.adapter.held_cells]) for name, rows in held.items()}
    pairs = [
        Pair(a, b, folds[b], Sides(fit[a], fit[b]), some[a], np.sort(experiment.cells[some[b]]))
        for b in names
        for a in names
        if a != b
    ]
    return pairs, folds, fit


class Inputs:
    """What an inverse adapter sees: the gap's direction, and where the source is, in units of the training cells' spread."""

    def __init__(self, layer: np.ndarray) -> None:
        self.centre = layer.mean(0)
        self.spread = max(float(np.sqrt(((layer - self.centre) ** 2).sum(1).mean())), 1e-12)

    def __call__(self, source: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        """(B, D) and (B, D) -> (B, 2D)."""
        length = np.maximum(np.linalg.norm(gaps, axis=1, keepdims=True), 1e-12)
        return np.concatenate([gaps / length, (source - self.centre) / self.spread], 1)


def drawn(
    state: State, labels: Mapping[str, np.ndarray], inputs: Inputs, batch: int, *, shuffled: bool = False
) -> Callable[[np.random.Generator], Tasks]:
    """Return what draws tasks between training labels: bootstraps of random size, and mixtures of two labels as targets.

    With `shuffled` every task's input is another's: what is then learnt is what all tasks have in common.
    """
    groups = list(labels.values())

    def draw(rng: np.random.Generator) -> Tasks:
        ends = [rng.choice(len(groups), 2, replace=False) for _ in range(batch)]
        third = rng.integers(len(groups), size=batch)
        share = np.where(rng.random(batch) < MIXED, rng.random(batch), 1.0)[:, None]
        source = mixing([groups[a] for a, _ in ends], len(state.codes), rng)
        first, second = (mixing([groups[i] for i in which], len(state.codes), rng) for which in ([b for _, b in ends], third))
        start, goal = source @ state.layer, (share * first + (1 - share) * second) @ state.layer
        zbar, gaps = source @ state.codes, goal - start
        seen = inputs(start, gaps)
        return Tasks.of(np.roll(seen, 1, 0) if shuffled else seen, zbar, gaps, state.weights(zbar, gaps))

    return draw


def tasks_of(state: State, sides: list[Sides], inputs: Inputs) -> Tasks:
    """Return the tasks of whole populations."""
    start, goal = (np.array([state.layer[getattr(one, side)].mean(0) for one in sides]) for side in ("source", "target"))
    zbar = np.array([state.codes[one.source].mean(0) for one in sides])
    return Tasks.of(inputs(start, goal - start), zbar, goal - start, state.weights(zbar, goal - start))


@dataclass(frozen=True)
class Fold:
    """The adapters of a fold: {name: network}, the shuffled ones as `shuffled NAME`; and what they see."""

    adapters: dict[str, Adapter]
    inputs: Inputs
    state: State


def train_fold(
    experiment: Experiment, state: State, number: int, folds: Mapping[str, int], fit: Mapping[str, np.ndarray]
) -> Fold:
    """Train every network on the labels of all other folds."""
    config = experiment.context.config
    labels = {name: rows for name, rows in fit.items() if folds[name] != number}
    rows = np.concatenate(list(labels.values()))
    inputs = Inputs(state.layer[rows])
    adapters = {}
    cells = array_digest(*(experiment.cells[some] for some in labels.values()))
    reads: dict[str, object] = {"cells": cells, "through": config.adapter.through}
    finish = None
    if config.adapter.through == "model":
        reads |= {"model_steps": config.adapter.model_steps}
        finish = _finisher(experiment, labels, state, inputs)
    for name in config.adapter.networks:
        for shuffled in (False, True) if name != "lista" else (False,):  # lista has nothing that a shuffle could teach it
            draw = drawn(state, labels, inputs, config.adapter.batch, shuffled=shuffled)
            adapter, _ = trained(
                experiment,
                name,
                2 * state.W.shape[1],
                draw,
                state,
                reads | {"shuffled": shuffled},
                seed=config.seed,
                finish=finish,
            )
            adapters[f"{SHUFFLED} {name}" if shuffled else name] = adapter
    return Fold(adapters, inputs, state)


def _finisher(
    experiment: Experiment, labels: Mapping[str, np.ndarray], state: State, inputs: Inputs
) -> Callable[[Adapter], None]:
    """Return what goes on with the training through the model: the expression objective of pairs of training labels."""
    config = experiment.context.config
    names = list(labels)

    def finish(adapter: Adapter) -> None:
        rng = np.random.default_rng([config.seed, 102])
        optimiser = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=config.adapter.lr / 10)
        for _ in track(range(config.adapter.model_steps), "adapter, through the model", config.adapter.model_steps):
            a, b = rng.choice(len(names), 2, replace=False)
            sides = Sides(labels[names[a]], labels[names[b]])
            tasks = tasks_of(state, [sides], inputs).to(experiment.cached.device)
            expression = model_objective(experiment, replace(config.objective, name="expression"), [sides])
            theta = adapter(tasks)
            start = expression.value(np.zeros(theta.shape[1]))
            _, gradient = expression.value_and_gradient(theta[0].detach().cpu().double().numpy())
            # the latent penalty, in units of the gap, is the price of a feature here too
            unit = tasks.gaps.square().sum().clamp_min(1e-24)
            slope = torch.as_tensor(gradient / max(start, 1e-300), dtype=torch.float32, device=theta.device)
            optimiser.zero_grad()
            ((theta[0] * slope).sum() + tasks.lam[0] * theta.abs().sum() / unit).backward()
            optimiser.step()

    return finish


def measure(experiment: Experiment, pair: Pair, fold: Fold, *, through_model: bool) -> pd.DataFrame:
    """Return a row an arm (exact, each network, each shuffled one), kept in the store.

    Columns: arm, excess (objective over the exact optimum, less 1), overlap (Jaccard index of the supports), features, gap and
    edistance in held-out cells at the layer with the null's mean and p of the gap; and, through the model, the headline scores
    of every space as space_score.
    """
    config = experiment.context.config
    how = make_scorer(experiment, pair.held, pair.target_held, pair.sides, experiment.side_genes(pair.sides))

    def build(folder: Path) -> None:
        rows = list(_rows(experiment, pair, fold, how, through_model))
        pd.DataFrame(rows).to_parquet(folder / "rows.parquet", index=False)

    weights = {name: array_digest(*(p.detach().cpu().numpy() for p in one.parameters())) for name, one in fold.adapters.items()}
    reads = {
        "n": config.adapter.n_permutations,
        "adapters": weights,
        "through_model": through_model,
        "lambda": as_dict(config.lam),
    }
    reads |= {"sides": array_digest(*(experiment.cells[rows] for rows in pair.sides)), **scored_key(experiment, how)}
    reads |= {"learnable": config.objective.learnable}
    parents = [experiment.streams, experiment.dictionary.artefact]
    return pd.read_parquet(
        built(experiment.context, "adapter-pair", build, version=VERSION, reads=reads, parents=parents).path / "rows.parquet"
    )


def _rows(experiment: Experiment, pair: Pair, fold: Fold, how: Scorer, through_model: bool) -> list[dict[str, object]]:
    config = experiment.context.config
    problem = latent_problem(experiment, config.objective, [pair.sides])
    lam = weight_of(config.lam, problem.lam_max)
    best = problem.solve(lam)
    dealt = [deal([pair.sides], config.seed, number)[0] for number in range(config.adapter.n_permutations)]
    tasks = tasks_of(fold.state, [pair.sides, *dealt], fold.inputs)
    thetas = {EXACT: np.array([best.theta, *_exact(experiment, dealt)])}
    thetas |= {name: recipes(adapter, tasks) for name, adapter in fold.adapters.items()}
    rows: list[dict[str, object]] = []
    for name, found in thetas.items():
        theta, on = found[0], found[0] != 0
        gaps = how.layer_gaps(found, config.objective.mode)
        moved = how.layer_values(how.shift(theta, config.objective.mode))
        null = permutation_p(gaps[0], gaps[1:], "higher")
        both = on | (best.theta != 0)
        row: dict[str, object] = {
            "arm": name,
            "excess": problem.certificate(theta, lam)[0] / best.objective - 1,
            "overlap": float((on & (best.theta != 0)).sum() / max(1, both.sum())),
            "features": int(on.sum()),
            "gap": gaps[0],
            "gap_null": null.mean,
            "gap_p": null.p,
            "edistance": moved["layer", "edistance"],
        }
        if through_model:
            values = how.values(how.recipe(theta, config.objective.mode) if theta.any() else how.base)
            row |= {f"{space}_{score}": values[space, score] for space in how.populations for score in HEADLINE}
        rows.append(row)
    return rows


def _exact(experiment: Experiment, some: list[Sides]) -> np.ndarray:
    found = []
    for sides in some:
        problem = latent_problem(experiment, experiment.context.config.objective, [sides])
        found.append(problem.solve(weight_of(experiment.context.config.lam, problem.lam_max)).theta)
    return np.array(found)


def milliseconds(experiment: Experiment, pairs: list[Pair], folds: Mapping[int, Fold]) -> dict[str, float]:
    """Return the median time of a target, one at a time: adapters from the states, the exact lasso from the same means."""
    times: dict[str, list[float]] = {}
    for pair in pairs:
        fold = folds[pair.fold]
        for name, adapter in fold.adapters.items():
            if not name.startswith(SHUFFLED):
                start = time.perf_counter()
                recipes(adapter, tasks_of(fold.state, [pair.sides], fold.inputs))
                times.setdefault(name, []).append(time.perf_counter() - start)
        start = time.perf_counter()
        _exact(experiment, [pair.sides])
        times.setdefault(EXACT, []).append(time.perf_counter() - start)
    return {name: float(1e3 * np.median(some)) for name, some in times.items()}
