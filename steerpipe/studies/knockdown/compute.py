"""One perturbation: its recipe, and what it, its null and its controls predict in held-out control cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ...config import ObjectiveConfig, as_dict
from ...evaluate.de import expressed_genes
from ...evaluate.knockdown import RealChange, de_scores, real_change
from ...evaluate.scorer import Scorer
from ...pipeline.activations import load_cells, measured_expression
from ...pipeline.artefact import built, kept, save_arrays
from ...pipeline.experiment import Experiment
from ...pipeline.ladder import read_by, recipe_parents
from ...pipeline.null import deal
from ...pipeline.problems import solve
from ...pipeline.scoring import make_scorer, scored_key
from ...steering.controls import mean_difference, random_recipe
from ...steering.intervene import State, add_vector
from .targets import Target

VERSION = 1
RECIPE, NULL, RANDOM, DENSE, CEILING, NOTHING = "recipe", "null", "random", "dense", "ceiling", "nothing"
HALVES = 10
"""Deals of the held-out perturbed cells into two halves, whose mean is the ceiling."""


@dataclass(frozen=True)
class Measured:
    """What is known of a perturbation under one objective.

    Attributes
    ----------
    theta : float64 (F,)
    scores : arm, draw, auprc, overlap, sign, gap, edistance (relative change; layer)
    predicted, real : float64 (G,) mean change of log1p CP10K: of the recipe in held-out control cells, and measured
    signs : int64 (G,), of the real DE genes
    among : bool (G,), genes that are ranked
    """

    target: Target
    objective: str
    theta: np.ndarray
    scores: pd.DataFrame
    predicted: np.ndarray
    real: np.ndarray
    signs: np.ndarray
    among: np.ndarray


class Bench:
    """The held-out cells of an experiment's perturbations, measured and predicted."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.source = load_cells(experiment.context.config, experiment.cached.model.genes)

    @cached_property
    def measured(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured log1p CP10K (N, G) of the held-out control cells, and the genes that the fit's control cells express."""
        control = self.experiment.sides.source
        held = measured_expression(self.source, self.experiment.split.source_held)
        return held, expressed_genes(self.experiment.counts[control])

    def real(self, target: Target) -> tuple[RealChange, np.ndarray]:
        """Return a perturbation's change in held-out cells, and its measured cells (M, G)."""
        control, expressed = self.measured
        perturbed = measured_expression(self.source, target.target_held)
        among = expressed & ~np.isin(self.experiment.genes, target.genes)
        return real_change(control, perturbed, among), perturbed

    def ceiling(self, target: Target, perturbed: np.ndarray, among: np.ndarray) -> dict[str, float]:
        """Return the scores of one half of the perturbed cells as a prediction of the other; means over deals."""
        control, _ = self.measured
        rows = []
        for number in range(HALVES):
            rng = np.random.default_rng([self.experiment.context.config.seed, 93, number])
            first, second = np.array_split(rng.permutation(len(perturbed)), 2)
            own, others = np.array_split(
                rng.permutation(len(control)), 2
            )  # a control that both halves share is alike by itself
            truth = real_change(control[own], perturbed[first], among)
            rows.append(de_scores(perturbed[second].mean(0) - control[others].mean(0), truth))
        return {name: float(value) for name, value in pd.DataFrame(rows).mean().items()}


def measure(bench: Bench, target: Target, objective: ObjectiveConfig) -> Measured:
    """Return a perturbation's recipe and scores, kept in the store; a killed run resumes at the next deal of its null."""
    experiment = bench.experiment
    config = experiment.context.config
    settings = config.knockdown
    n = settings.n_permutations if objective.name == "latent" else config.evaluate.n_permutations_model
    how = make_scorer(experiment, target.held, target.target_held, target.sides, experiment.side_genes(target.sides))

    def build(folder: Path) -> None:
        def fitted(number: int) -> np.ndarray:
            (sides,) = [target.sides] if number < 0 else deal([target.sides], config.seed, number)
            return solve(experiment, objective, [sides], config.lam, direct=number >= 0).theta

        files = [folder / f"theta_{number + 1:04d}.npy" for number in range(-1, n)]
        for number, file in enumerate(files, -1):
            kept(file, partial(fitted, number))
        thetas = [np.load(file) for file in files]
        real, perturbed = bench.real(target)
        rows, predicted = arms(experiment, how, target, real, np.array(thetas), objective.mode)
        rows.append({"arm": CEILING, "draw": 0, **bench.ceiling(target, perturbed, real.among)})
        pd.DataFrame(rows).to_parquet(folder / "scores.parquet", index=False)
        arrays = {"theta": thetas[0], "predicted": predicted, "real": real.change, "signs": real.signs, "among": real.among}
        save_arrays(folder / "change.npz", arrays)
        for file in files:
            file.unlink()

    reads = {
        "objective": read_by(experiment, objective),
        "lambda": as_dict(config.lam),
        "name": target.name,
        "n": n,
        "n_random": settings.n_random,
        **scored_key(experiment, how),
    }
    reads["sides"] = [experiment.cells[rows].tolist() for rows in target.sides]
    path = built(
        experiment.context, "knockdown", build, version=VERSION, reads=reads, parents=recipe_parents(experiment, objective)
    ).path
    with np.load(path / "change.npz") as file:
        arrays = {name: file[name] for name in ("theta", "predicted", "real", "signs", "among")}
    return Measured(target, objective.name, scores=pd.read_parquet(path / "scores.parquet"), **arrays)


def arms(
    experiment: Experiment, how: Scorer, target: Target, real: RealChange, thetas: np.ndarray, mode: str
) -> tuple[list[dict[str, object]], np.ndarray]:
    """Score the recipe (the first theta), its null (the others) and its controls; return rows, and the recipe's change (G,)."""
    rows: list[dict[str, object]] = []
    before = how.base.expression

    def add(arm: str, draw: int, state: State) -> np.ndarray:
        change = np.asarray(state.expression.astype(np.float64).mean(0) - before.astype(np.float64).mean(0))
        values = how.layer_values(state.layer - how.base.layer)
        rows.append({"arm": arm, "draw": draw, **de_scores(change, real), "gap": values["layer", "gap"],
                     "edistance": values["layer", "edistance"]})  # fmt: skip
        return change

    predicted = add(RECIPE, 0, how.recipe(thetas[0], mode))
    for draw, theta in enumerate(thetas[1:]):
        add(NULL, draw, how.recipe(theta, mode))
    config = experiment.context.config
    rng = np.random.default_rng([config.seed, 92])
    active = (experiment.activity[target.sides.source] > 0).any(0)
    for draw in range(config.knockdown.n_random):
        add(RANDOM, draw, how.recipe(random_recipe(thetas[0], active | (thetas[0] != 0), rng), mode))
    source, goal = (experiment.layer[experiment.cells[side]] for side in target.sides)
    dense = mean_difference(source, goal)
    add(DENSE, 0, how.state(add_vector(torch.as_tensor(dense, dtype=torch.float32, device=experiment.cached.device))))
    add(NOTHING, 0, how.base)
    return rows, predicted
