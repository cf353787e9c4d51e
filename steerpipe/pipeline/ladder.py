"""The ladder of an objective through the model, rung by rung in the store, from which every fit of a sweep starts.

A rung depends on the one before it alone, so a sweep gives the same bytes in any order and pays for a rung once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ObjectiveConfig
from ..steering.ladder import NODE_RATIO, rung, top
from ..steering.objectives import Objective
from ..steering.proximal import ProximalFit
from .artefact import Artefact, built
from .experiment import Experiment
from .learnable import learnable_features, learnable_parents
from .problems import Groups, bounds, ladder_options, model_objective

VERSION = 3
ARRAYS = ("theta", "gradient", "moves", "slopes")
READ_BY: dict[str, tuple[str, ...]] = {
    "latent": ("name", "mode", "tokens", "learnable", "match", "metric", "orthogonal", "bounds", "solver", "refit"),
    "latent_final": (
        "name", "mode", "tokens", "learnable", "match", "bounds", "refit", "max_cells", "max_steps", "tolerance",
    ),
}  # fmt: skip
READ_BY["expression"] = (*READ_BY["latent_final"], "top_n", "seen_genes")
READ_BY["mixed"] = (*READ_BY["expression"], "metric", "orthogonal", "weight")
"""The settings that each objective reads."""


class StoredLadder:
    """Solutions of one objective through the model (expression, latent_final or mixed) at decreasing lambda."""

    def __init__(self, experiment: Experiment, objective: ObjectiveConfig) -> None:
        self.experiment, self.objective = experiment, objective

    @cached_property
    def problem(self) -> Objective:
        """The objective on at most `max_cells` of the fit's source cells."""
        return model_objective(self.experiment, self.objective)

    @cached_property
    def learnable(self) -> np.ndarray:
        """bool (F,)."""
        return learnable_features(self.experiment, self.objective.learnable)

    @cached_property
    def parents(self) -> list[Artefact]:
        """What a rung stands on."""
        return recipe_parents(self.experiment, self.objective)

    @cached_property
    def zero(self) -> tuple[float, np.ndarray]:
        """Loss and gradient (F,) at theta = 0, on the learnable features."""

        def build(folder: Path) -> None:
            loss, gradient = self.problem.value_and_gradient(np.zeros(self.experiment.sae.n_features))
            np.save(folder / "gradient.npy", np.where(self.learnable, gradient, 0.0))
            (folder / "loss.json").write_text(json.dumps(loss))

        path = self._store(0, build)
        return float(json.loads((path / "loss.json").read_text())), np.load(path / "gradient.npy")

    @property
    def lam_max(self) -> float:
        """The smallest weight at which theta = 0 is optimal (to first order)."""
        return self.node(0).lam

    def node(self, number: int) -> ProximalFit:
        """Return the solution at lam_max / 3^number, solving it and those before it when they are missing."""
        if number == 0:
            return top(*self.zero, bounds(self.objective))

        def build(folder: Path) -> None:
            record = asdict(self._solve(self.lam_max * NODE_RATIO**-number, self.node(number - 1)))
            np.savez(folder / "node.npz", **{name: record.pop(name) for name in ARRAYS})
            (folder / "node.json").write_text(json.dumps(record))

        path = self._store(number, build)
        record = json.loads((path / "node.json").read_text())
        return ProximalFit(**np.load(path / "node.npz"), **record | {"history": tuple(record["history"])})

    def solve(self, lam: float) -> list[ProximalFit]:
        """Return the nodes above `lam` and, last, the solution at `lam` itself."""
        nodes = [self.node(0)]
        while self.lam_max * NODE_RATIO ** -len(nodes) > lam:
            nodes.append(self.node(len(nodes)))
        return [*nodes, self._solve(lam, nodes[-1])]

    def refit(self, fit: ProximalFit) -> ProximalFit:
        """Return the fit without penalty on the support of another."""
        return self._solve(0.0, fit, fit.theta != 0)

    def _solve(self, lam: float, above: ProximalFit, learnable: np.ndarray | None = None) -> ProximalFit:
        free = self.learnable if learnable is None else learnable
        return rung(self.problem, lam, above, slope=self.zero[1], learnable=free, **ladder_options(self.objective))

    def _store(self, number: int, build: Any) -> Path:
        experiment = self.experiment
        settings = {"objective": read_by(self.objective), "node": number, **cells_key(experiment)}
        settings["objective"].pop("refit")
        return built(experiment.context, "expression-path", build, version=VERSION, reads=settings, parents=self.parents).path


def recipe_parents(experiment: Experiment, objective: ObjectiveConfig) -> list[Artefact]:
    """Return the artefacts that a recipe of an objective stands on."""
    first = [experiment.streams, experiment.dictionary.artefact]
    return first + learnable_parents(experiment, objective.learnable)


def read_by(objective: ObjectiveConfig) -> dict[str, Any]:
    """Return the settings that an objective reads: the latent one knows no genes, cells or steps."""
    return {name: getattr(objective, name) for name in READ_BY[objective.name]}


def cells_key(experiment: Experiment, groups: Groups | None = None) -> dict[str, Any]:
    """Return what identifies the cells and the random choices of a fit; the streams name the cells of a plain one."""
    seed = {"seed": experiment.context.config.seed}
    if groups is None:
        return {"target_cells": _digest(experiment.split.target_fit), **seed}
    rows = [part for sides in groups for part in (sides.source, [-1], sides.target, [-2])]
    return {"groups": _digest(np.concatenate(rows).astype(np.int64)), **seed}


def _digest(cells: np.ndarray) -> str:
    return hashlib.sha256(cells.tobytes()).hexdigest()[:16]
