"""The expression objective's path: nodes at lambda_max / 3^k, stored, from which every fit of a sweep starts.

A node depends on the one before it alone, so a sweep gives the same bytes in any order and pays for a node once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ObjectiveConfig, as_dict
from ..steering.objectives import ExpressionObjective, gene_weights
from ..steering.proximal import ProximalFit, prox_gradient_norm, solve
from ..store import Artefact
from .experiment import Experiment
from .learnable import learnable_features, learnable_parents

VERSION = 1
NODE_RATIO = 3.0


class ExpressionPath:
    """Solutions of one expression objective at decreasing lambda."""

    def __init__(self, experiment: Experiment, objective: ObjectiveConfig) -> None:
        self.experiment, self.objective = experiment, objective

    @cached_property
    def problem(self) -> ExpressionObjective:
        """The objective on at most `max_cells` of the fit's source cells."""
        experiment, split = self.experiment, self.experiment.split
        source, target = experiment.expression[split.source_fit], experiment.expression[split.target_fit]
        weights = gene_weights(target, source, experiment.seen_genes, self.objective.top_n)
        config = experiment.context.config
        order = np.random.default_rng([config.seed, 2]).permutation(experiment.fit_rows)
        cells = np.sort(order[: self.objective.max_cells])
        return ExpressionObjective(
            experiment.cached, cells, experiment.sae, target.mean(0), weights, batch_size=config.model.batch_size
        )

    @cached_property
    def learnable(self) -> np.ndarray:
        """bool (F,)."""
        return learnable_features(self.experiment, self.objective.learnable)

    @cached_property
    def parents(self) -> list[Artefact]:
        """What a node stands on."""
        experiment = self.experiment
        first = [experiment.streams, experiment.dictionary.artefact]
        return first + learnable_parents(experiment, self.objective.learnable)

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
        return float(np.abs(self.zero[1]).max())

    def node(self, number: int) -> ProximalFit:
        """Return the solution at lam_max / 3^number, solving it and those before it when they are missing."""
        if number == 0:
            loss = self.zero[0]
            theta = np.zeros(self.experiment.sae.n_features)
            return ProximalFit(self.lam_max, theta, loss, loss, 0.0, 0.5 / self.lam_max, 0, 1, True, (loss,))

        def build(folder: Path) -> None:
            record = asdict(self._solve(self.lam_max * NODE_RATIO**-number, self.node(number - 1)))
            np.save(folder / "theta.npy", record.pop("theta"))
            (folder / "node.json").write_text(json.dumps(record))

        path = self._store(number, build)
        record = json.loads((path / "node.json").read_text())
        return ProximalFit(theta=np.load(path / "theta.npy"), **record | {"history": tuple(record["history"])})

    def solve(self, lam: float) -> list[ProximalFit]:
        """Return the nodes above `lam` and, last, the solution at `lam` itself."""
        nodes = [self.node(0)]
        while self.lam_max * NODE_RATIO ** -len(nodes) > lam:
            nodes.append(self.node(len(nodes)))
        return [*nodes, self._solve(lam, nodes[-1])]

    def _solve(self, lam: float, start: ProximalFit) -> ProximalFit:
        gradient = self.zero[1]
        scale = prox_gradient_norm(np.zeros_like(gradient), gradient, lam, self.learnable)
        return solve(
            self.problem.value_and_gradient,
            start.theta,
            lam,
            learnable=self.learnable,
            step=start.step,
            tolerance=self.objective.tolerance * scale,
            max_steps=self.objective.max_steps,
        )

    def _store(self, number: int, build: Any) -> Path:
        experiment = self.experiment
        settings = {"objective": as_dict(self.objective), "node": number, **cells_key(experiment)}
        store = experiment.context.store
        return store.get("expression-path", version=VERSION, config=settings, parents=self.parents, build=build).path


def cells_key(experiment: Experiment) -> dict[str, Any]:
    """Return what identifies the target cells and the random choices of a fit."""
    target = hashlib.sha256(experiment.split.target_fit.tobytes()).hexdigest()[:16]
    return {"target_cells": target, "seed": experiment.context.config.seed}
