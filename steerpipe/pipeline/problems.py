"""An objective on some cells, posed and solved: what fits, nulls, half-sample refits and transfers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..config import LambdaConfig, ObjectiveConfig
from ..steering.contrast_streams import CellRows
from ..steering.ladder import Ladder
from ..steering.lasso import LatentProblem
from ..steering.metric import orthogonal_penalty, whitening
from ..steering.objectives import (
    ExpressionObjective,
    LatentFinalObjective,
    MeanObjective,
    MixedObjective,
    Objective,
    ProgramObjective,
    gene_weights,
)
from ..steering.shift import clamp_values, recipe_shift, scaled_codes
from .experiment import Experiment, Sides
from .learnable import learnable_features
from .program import phenotype, reach, within_limit

AT_ONCE = 3
"""Batches whose cells share one pass of a gradient: the population's mean then needs no pass of its own."""
LEAST_SPREAD = 1e-6
"""log1p CP10K: a smaller SD of a score over cells is rounding."""
Groups = Sequence[Sides]
"""Several populations, each aimed at a target of its own; a plain fit has one."""


class Solved(NamedTuple):
    """A recipe theta (F,), and the share of lambda_max that it was found at."""

    theta: np.ndarray
    ratio: float


def bounds(objective: ObjectiveConfig) -> tuple[float | None, float | None]:
    """Return the least and the largest theta."""
    low, high = objective.bounds
    return low, high


def weight_of(lam: LambdaConfig, lam_max: float) -> float:
    """Return the penalty's weight: the number itself, or the share of lambda_max."""
    return lam.value if lam.mode == "absolute" else lam.value * lam_max


def latent_problem(
    experiment: Experiment, objective: ObjectiveConfig, groups: Groups | None = None, *, among: np.ndarray | None = None
) -> LatentProblem:
    """Return the latent problem of some cells towards the mean embeddings of others.

    `among`, bool (F,), holds back further features than objective.learnable does.

    With several groups, each is one pseudo-cell in the population form, of its mean code and mean embedding. To add a vector
    at a share of the pooled tokens moves every embedding by that share of it: with `add` each cell's mean code is that share,
    and the problem is a lasso as well; with `clamp` the lasso, which chooses the features, is that of `multiply`.
    """
    groups = groups or [experiment.sides]
    W_dec = experiment.sae.W_dec.detach().cpu().numpy()
    codes, embeddings, goals, residuals = [], [], [], []
    pooled = objective.match == "population" and len(groups) > 1
    for source, target in groups:
        z = scaled_codes(objective.mode, experiment.zbar[source], experiment.cached.token_share)
        here, there = (np.asarray(experiment.layer[experiment.cells[rows]], np.float64) for rows in (source, target))
        residuals.append((here - here.mean(0), there - there.mean(0)))
        if pooled:
            z, here = z.mean(0, keepdims=True), here.mean(0, keepdims=True)
        codes.append(z)
        embeddings.append(here)
        goals.append(np.repeat(there.mean(0)[None], len(here), 0))
    metric = None
    if objective.metric == "whitened":
        metric = whitening(*(np.concatenate(side) for side in zip(*residuals, strict=True)))
    if objective.orthogonal:
        way = np.mean([goal[0] - e.mean(0) for goal, e in zip(goals, embeddings, strict=True)], axis=0)
        first = np.eye(len(way)) if metric is None else metric
        metric = first @ orthogonal_penalty(way @ first, objective.orthogonal)
    free = learnable_features(experiment, objective.learnable, np.concatenate([s.source for s in groups]))
    free = free if among is None else free & among
    arrays = np.concatenate(codes), W_dec, np.concatenate(embeddings), np.concatenate(goals), free
    return LatentProblem(*arrays, match="cell" if pooled else objective.match, metric=metric, bounds=bounds(objective))


def model_objective(
    experiment: Experiment, objective: ObjectiveConfig, groups: Groups | None = None, *, max_cells: int | None = None
) -> Objective:
    """Return an objective through the model: the mean of the groups', each on an equal share of `max_cells` source cells.

    Targets and gene weights are of all cells of the groups; only the cells that are steered are capped. The population form
    aims the mean of all source cells at the target: where that mean is unsteered is known, and how it shifts is taken from the
    cells that are steered, which differ less in that than in where they are.
    """
    groups = groups or [experiment.sides]
    rng = np.random.default_rng([experiment.context.config.seed, 2])
    share = max(1, (max_cells or objective.max_cells) // len(groups))
    found: list[Objective] = []
    for source, target in groups:
        cells = np.sort(rng.permutation(source)[:share])
        found.append(_one_group(experiment, objective, cells, Sides(source, target)))
    return found[0] if len(found) == 1 else MeanObjective(found)


def _one_group(experiment: Experiment, objective: ObjectiveConfig, cells: np.ndarray, sides: Sides) -> Objective:
    what = experiment.cached, cells, experiment.sae
    batch = experiment.context.config.model.batch_size
    batch = len(cells) if len(cells) <= AT_ONCE * batch else batch
    how: dict[str, Any] = {"mode": objective.mode, "match": objective.match, "batch_size": batch}
    source, target = (experiment.cells[rows] for rows in sides)
    chosen = experiment.cells[cells]

    def goal(known: CellRows) -> np.ndarray:
        mu: np.ndarray = known[target].mean(0)
        # in place of the chosen cells' mean stands that of all: only its shift under steering is theirs to estimate
        return mu if objective.match == "cell" else np.asarray(mu - known[source].mean(0) + known[chosen].mean(0))

    if objective.name == "latent_final":
        return LatentFinalObjective(*what, goal(experiment.final), **how)
    y = experiment.expression
    if objective.name == "program":
        weights = phenotype(experiment).weights("seen")
        scale = max(float((y[source] @ weights).std()), LEAST_SPREAD)
        start = float((y[chosen] @ weights).mean())
        return ProgramObjective(*what, weights, start, scale, *reach(experiment, objective, sides.source), **how)
    weights = gene_weights(y[target], y[source], experiment.seen_genes, objective.top_n)
    expression = ExpressionObjective(*what, goal(y), weights, **how)
    if objective.name == "expression":
        return expression
    return MixedObjective(latent_problem(experiment, objective, [sides]), expression, objective.weight)


def ladder_options(objective: ObjectiveConfig) -> dict[str, Any]:
    """Return how an objective through the model goes down its ladder."""
    return {"tolerance": objective.tolerance, "max_steps": objective.max_steps, "bounds": bounds(objective)}


def solve(
    experiment: Experiment,
    objective: ObjectiveConfig,
    groups: Groups,
    lam: LambdaConfig,
    *,
    max_cells: int | None = None,
    direct: bool = False,
) -> Solved:
    """Solve an objective on some groups at the configured lambda; nothing is stored.

    Cost: milliseconds for `latent`, always exactly; else some ten to forty gradients of `max_cells` cells, or with `direct`,
    which leaves the rungs of the ladder out, some seven.
    """
    if objective.name == "latent":
        problem = latent_problem(experiment, objective, groups)
        weight = weight_of(lam, problem.lam_max)
        theta = problem.solve(weight).theta
        if objective.mode == "clamp":
            theta = clamp_values(problem, theta, experiment.cached.token_share)
        return Solved(theta, weight / max(problem.lam_max, 1e-300))
    free = learnable_features(experiment, objective.learnable, np.concatenate([s.source for s in groups]))
    ladder = Ladder(
        lambda: model_objective(experiment, objective, groups, max_cells=max_cells), free, **ladder_options(objective)
    )
    weight = weight_of(lam, ladder.lam_max)
    if weight >= ladder.lam_max:
        return Solved(np.zeros(len(free)), 1.0)
    theta = ladder.solve(weight, direct=direct)[-1].theta
    for sides in groups:
        theta = within_limit(experiment, objective, theta, sides.source)
    return Solved(theta, weight / max(ladder.lam_max, 1e-300))


def shift(experiment: Experiment, theta: np.ndarray, mode: str, rows: np.ndarray) -> np.ndarray:
    """Return what a recipe adds to the layer embeddings of some rows, float64 (n, D)."""
    return recipe_shift(experiment.cached, experiment.sae, theta, mode, experiment.zbar[rows])
