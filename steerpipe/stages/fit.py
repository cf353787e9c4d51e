"""`steer fit`: the steering vector of one objective at one lambda."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import LambdaConfig, ObjectiveConfig, as_dict
from ..evaluate.recruitment import counts
from ..steering.lasso import LatentProblem
from ..store import Artefact
from .checkpoint import require_head
from .common import Context
from .experiment import Experiment, prepare
from .expression import ExpressionPath, cells_key
from .learnable import learnable_features, learnable_parents

log = logging.getLogger(__name__)
VERSION = 1
PATH_END = 0.01


@dataclass(frozen=True)
class Recipe:
    """A fitted steering vector.

    Attributes
    ----------
    objective : latent or expression
    theta : float64 (F,), alpha - 1, exact zeros
    path : one row a lambda: lam, ratio, n_features at each threshold, loss, and the solver's certificate
    info : lam, lam_max, ratio, counts, certificate and cost as flat numbers
    """

    objective: str
    artefact: Artefact
    theta: np.ndarray
    path: pd.DataFrame
    info: dict[str, float]


def main(context: Context) -> None:
    """Fit, and report counts, certificate, path and the recruited features."""
    require_head(context.config, [context.config.objective.name], "objective=latent")
    experiment = prepare(context)
    recipe = fit(experiment, context.config.objective)
    context.run.metrics({f"fit/{name}": value for name, value in recipe.info.items()})
    context.run.table("path", recipe.path)
    context.run.table("recipe", recipe_table(recipe, experiment))
    log.info(
        "%s objective: lambda %.4g (%.3g of lambda_max), %d features recruited, %d above 0.05",
        recipe.objective, recipe.info["lam"], recipe.info["ratio"], recipe.info["n_1e-06"], recipe.info["n_0.05"],
    )  # fmt: skip


def fit(experiment: Experiment, objective: ObjectiveConfig) -> Recipe:
    """Return the recipe of an objective on an experiment, fitting it when it is missing."""
    settings = {"objective": _read_by(objective), "lambda": as_dict(experiment.context.config.lam), **cells_key(experiment)}
    method: Callable[..., None] = _fit_latent if objective.name == "latent" else _fit_expression

    def build(folder: Path) -> None:
        method(experiment, objective, folder)

    parents = [experiment.streams, experiment.dictionary.artefact, *learnable_parents(experiment, objective.learnable)]
    artefact = experiment.context.store.get("fit", version=VERSION, config=settings, parents=parents, build=build)
    info = json.loads((artefact.path / "fit.json").read_text())
    return Recipe(objective.name, artefact, np.load(artefact.path / "theta.npy"), pd.read_csv(artefact.path / "path.csv"), info)


def recipe_table(recipe: Recipe, experiment: Experiment) -> pd.DataFrame:
    """Return the recruited features, strongest first, with their activity in the source cells of the fit."""
    on = np.flatnonzero(recipe.theta)
    on = on[np.argsort(-np.abs(recipe.theta[on]), kind="stable")]
    activity = experiment.activity[experiment.fit_rows].mean(0)
    return pd.DataFrame(
        {"feature": on, "theta": recipe.theta[on], "alpha": 1 + recipe.theta[on], "mean_abs_code": activity[on]}
    )


def latent_problem(experiment: Experiment, mu: np.ndarray, *, learnable: str = "active") -> LatentProblem:
    """Return the latent problem of the fit's source cells towards an embedding mu (D,)."""
    rows = experiment.fit_rows
    embeddings = experiment.layer[experiment.split.source_fit]
    free = learnable_features(experiment, learnable)
    W_dec = experiment.sae.W_dec.detach().cpu().numpy()
    return LatentProblem(experiment.zbar[rows], W_dec, embeddings, mu, free)


def weight_of(lam: LambdaConfig, lam_max: float) -> float:
    """Return the penalty's weight: the number itself, or the share of lambda_max."""
    return lam.value if lam.mode == "absolute" else lam.value * lam_max


def _fit_latent(experiment: Experiment, objective: ObjectiveConfig, folder: Path) -> None:
    lam = experiment.context.config.lam
    mu = experiment.layer[experiment.split.target_fit].mean(0)
    problem = latent_problem(experiment, mu, learnable=objective.learnable)
    weight = weight_of(lam, problem.lam_max)
    end = min(lam.value if lam.mode == "path" else PATH_END, weight / problem.lam_max)
    grid = np.geomspace(1, end, lam.n_path) * problem.lam_max
    fits = problem.path(grid)
    above = [f for f in fits if f.lam >= weight * (1 - 1e-12)]
    chosen = problem.solve(weight, above[-1].theta if above else None)
    rows = [
        {"lam": f.lam, "ratio": f.lam / problem.lam_max, "loss": problem.loss(f.theta), "gap": f.gap, **counts(f.theta)}
        for f in fits
    ]
    info = {"gap": chosen.gap, "largest_gap": max(f.gap for f in [*fits, chosen]), "objective": chosen.objective}
    _save(folder, chosen.theta, rows, problem.lam_max, weight, problem.loss(chosen.theta), problem.y_square, info)


def _fit_expression(experiment: Experiment, objective: ObjectiveConfig, folder: Path) -> None:
    path = ExpressionPath(experiment, objective)
    weight = weight_of(experiment.context.config.lam, path.lam_max)
    fits = path.solve(weight)
    chosen = fits[-1]
    rows = [
        {"lam": f.lam, "ratio": f.lam / path.lam_max, "loss": f.loss, "prox_gradient": f.prox_gradient, **counts(f.theta)}
        for f in fits
    ]
    info = {
        "prox_gradient": chosen.prox_gradient,
        "objective": chosen.objective,
        "converged": float(all(f.converged for f in fits)),
        "n_gradients": sum(f.n_gradients for f in fits),
    }
    _save(folder, chosen.theta, rows, path.lam_max, weight, chosen.loss, path.zero[0], info)


def _read_by(objective: ObjectiveConfig) -> dict[str, Any]:
    """The settings that an objective reads: the latent one knows no genes, cells or steps."""
    names = ("name", "learnable") if objective.name == "latent" else tuple(as_dict(objective))
    return {name: getattr(objective, name) for name in names}


def _save(
    folder: Path,
    theta: np.ndarray,
    rows: list[dict[str, Any]],
    lam_max: float,
    lam: float,
    loss: float,
    start_loss: float,
    info: dict[str, float],
) -> None:
    np.save(folder / "theta.npy", theta)
    pd.DataFrame(rows).to_csv(folder / "path.csv", index=False)
    sizes = {"lam": lam, "lam_max": lam_max, "ratio": lam / lam_max, "loss": loss, "loss_at_zero": start_loss}
    (folder / "fit.json").write_text(json.dumps({**sizes, **counts(theta), **info}, indent=1))
