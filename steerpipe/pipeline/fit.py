"""The steering vector of one objective at one lambda."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import ObjectiveConfig, as_dict
from ..errors import SteerError
from ..evaluate.recruitment import counts, recruited
from ..steering import adam
from ..steering.ambiguity import stand_ins
from ..steering.lasso import LassoFit, LatentProblem
from ..steering.shift import clamp_values
from .artefact import Artefact, built
from .experiment import Experiment
from .ladder import StoredLadder, cells_key, read_by, recipe_parents
from .problems import latent_problem, shift, weight_of
from .program import within_limit
from .recurrence import known_stability

log = logging.getLogger(__name__)
VERSION = 3
PATH_END = 0.01


@dataclass(frozen=True)
class Recipe:
    """A fitted steering vector.

    Attributes
    ----------
    objective : its label: latent, latent_final, expression, mixed or program, with its form where that is not the default
    settings : what it was fitted with
    theta : float64 (F,), exact zeros; alpha - 1 with multiply, see steering.intervene for the other modes
    refit : float64 (F,), unpenalised on the support of theta, where objective.refit asks for it
    path : one row a lambda: lam, ratio, n_features at each threshold, loss, and the solver's certificate
    info : lam, lam_max, ratio, counts, certificate and cost as flat numbers
    """

    objective: str
    artefact: Artefact
    theta: np.ndarray
    path: pd.DataFrame
    info: dict[str, float]
    settings: ObjectiveConfig
    refit: np.ndarray | None = None

    @property
    def mode(self) -> str:
        """multiply, add or clamp."""
        return self.settings.mode


def fit(experiment: Experiment, objective: ObjectiveConfig) -> Recipe:
    """Return the recipe of an objective on an experiment, fitting it when it is missing."""
    experiment_tokens = experiment.context.config.objective.tokens
    if objective.tokens != experiment_tokens:
        raise SteerError(f"objective.tokens={objective.tokens}, but the experiment steers {experiment_tokens}.")
    settings = {"objective": read_by(experiment, objective), **cells_key(experiment)}
    settings["lambda"] = as_dict(experiment.context.config.lam)
    method: Callable[..., None] = _fit_latent if objective.name == "latent" else _fit_through_model

    def build(folder: Path) -> None:
        method(experiment, objective, folder)

    parents = recipe_parents(experiment, objective)
    artefact = built(experiment.context, "fit", build, version=VERSION, reads=settings, parents=parents)
    path = artefact.path
    info = json.loads((path / "fit.json").read_text())
    refit = np.load(path / "refit.npy") if (path / "refit.npy").is_file() else None
    theta, table = np.load(path / "theta.npy"), pd.read_csv(path / "path.csv")
    return Recipe(objective.label, artefact, theta, table, info, objective, refit)


def recipe_table(recipe: Recipe, experiment: Experiment) -> pd.DataFrame:
    """Return the recruited features, strongest first, with their activity in the source cells of the fit.

    And with their stability, where `steer stability` has measured it.
    """
    on = recruited(recipe.theta)
    activity = experiment.activity[experiment.fit_rows].mean(0)
    table = pd.DataFrame({"feature": on, "theta": recipe.theta[on], "mean_abs_code": activity[on]})
    if recipe.mode == "multiply":
        table.insert(2, "alpha", 1 + recipe.theta[on])
    known = known_stability(experiment.context.store, experiment.dictionary.artefact.key)
    if known is not None:
        table["stability"] = known.reindex(on).to_numpy()
    return table if recipe.refit is None else table.assign(refit=recipe.refit[on])


def stand_in_table(experiment: Experiment, recipes: list[Recipe]) -> pd.DataFrame:
    """Return the groups in which exact latent recipes are to be read: steering.ambiguity.stand_ins, with the objective."""
    frames = []
    for recipe in recipes:
        if recipe.settings.name != "latent" or recipe.settings.solver != "exact":
            continue
        problem = latent_problem(experiment, recipe.settings)
        again = problem.solve(recipe.info["lam"], recipe.theta if recipe.mode != "clamp" else None)
        frames.append(stand_ins(problem, again).assign(objective=recipe.objective))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"objective": [], "feature": []})


def solve_latent(experiment: Experiment, objective: ObjectiveConfig) -> tuple[LatentProblem, LassoFit, list[LassoFit]]:
    """Return the latent problem, its solution at the configured lambda, and the path; none for Adam."""
    lam = experiment.context.config.lam
    problem = latent_problem(experiment, objective)
    weight = weight_of(lam, problem.lam_max)
    if objective.solver == "adam":
        chosen = adam.solve(problem, weight)
        return problem, chosen, []
    end = min(lam.value if lam.mode == "path" else PATH_END, weight / problem.lam_max)
    fits = problem.path(np.geomspace(1, end, lam.n_path) * problem.lam_max)
    above = [f for f in fits if f.lam >= weight * (1 - 1e-12)]
    return problem, problem.solve(weight, above[-1].theta if above else None), fits


def _fit_latent(experiment: Experiment, objective: ObjectiveConfig, folder: Path) -> None:
    problem, chosen, fits = solve_latent(experiment, objective)
    rows = [
        {"lam": f.lam, "ratio": f.lam / problem.lam_max, "loss": problem.loss(f.theta), "gap": f.gap, **counts(f.theta)}
        for f in fits or [chosen]
    ]
    info = {"gap": chosen.gap, "largest_gap": max(f.gap for f in [*fits, chosen]), "objective": chosen.objective}
    theta, loss = chosen.theta, problem.loss(chosen.theta)
    if objective.mode == "clamp":
        theta = clamp_values(problem, theta, experiment.cached.token_share)
        moved = shift(experiment, theta, "clamp", experiment.fit_rows)
        loss = problem.loss_of_shift(moved.mean(0, keepdims=True) if objective.match == "population" else moved)
    elif objective.refit:
        refit = problem.refit(theta)
        np.save(folder / "refit.npy", refit)
        info["refit_loss"] = problem.loss(refit)
    _save(folder, theta, rows, problem.lam_max, chosen.lam, loss, problem.y_square, info)


def _fit_through_model(experiment: Experiment, objective: ObjectiveConfig, folder: Path) -> None:
    path = StoredLadder(experiment, objective)
    weight = weight_of(experiment.context.config.lam, path.lam_max)
    fits = path.solve(weight)
    chosen, largest = fits[-1], max(path.lam_max, 1e-300)
    rows = [
        {"lam": f.lam, "ratio": f.lam / largest, "loss": f.loss, "prox_gradient": f.prox_gradient, **counts(f.theta)}
        for f in fits
    ]
    info = {
        "prox_gradient": chosen.prox_gradient,
        "objective": chosen.objective,
        "converged": float(all(f.converged for f in fits)),
        "n_gradients": sum(f.n_gradients for f in fits),
    }
    if objective.refit:
        refit = path.refit(chosen)
        np.save(folder / "refit.npy", within_limit(experiment, objective, refit.theta, experiment.fit_rows))
        info |= {"refit_loss": refit.loss, "refit_converged": float(refit.converged)}
    theta = within_limit(experiment, objective, chosen.theta, experiment.fit_rows)
    loss = chosen.loss if np.array_equal(theta, chosen.theta) else path.problem.value(theta)
    _save(folder, theta, rows, path.lam_max, weight, loss, path.zero[0], info)


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
    sizes = {"lam": lam, "lam_max": lam_max, "ratio": lam / max(lam_max, 1e-300), "loss": loss, "loss_at_zero": start_loss}
    (folder / "fit.json").write_text(json.dumps({**sizes, **counts(theta), **info}, indent=1))
