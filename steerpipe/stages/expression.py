"""The path of an objective through the model: nodes at lambda_max / 3^k, stored, from which every fit of a sweep starts.

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

from ..config import ObjectiveConfig
from ..steering.lasso import LatentProblem
from ..steering.objectives import ExpressionObjective, LatentFinalObjective, MixedObjective, ModelObjective, gene_weights
from ..steering.proximal import ProximalFit, prox_gradient_norm, solve
from .experiment import Experiment
from .learnable import learnable_features, learnable_parents

VERSION = 2
NODE_RATIO = 3.0
READ_BY = {
    "latent": ("name", "mode", "tokens", "learnable", "solver", "refit"),
    "latent_final": ("name", "mode", "tokens", "learnable", "refit", "max_cells", "max_steps", "tolerance"),
}
READ_BY["expression"] = (*READ_BY["latent_final"], "top_n", "seen_genes")
READ_BY["mixed"] = (*READ_BY["expression"], "weight")
"""The settings that each objective reads."""

Sides = tuple[np.ndarray, np.ndarray]
"""Positions of source and target cells, of which a fit takes its target and gene weights."""


class ExpressionPath:
    """Solutions of one objective through the model (expression, latent_final or mixed) at decreasing lambda.

    Parameters
    ----------
    sides : other source and target cells than the fit's own, for the control with shuffled labels
    """

    def __init__(self, experiment: Experiment, objective: ObjectiveConfig, *, sides: Sides | None = None) -> None:
        self.experiment, self.objective, self.sides = experiment, objective, sides

    @cached_property
    def problem(self) -> ModelObjective | MixedObjective:
        """The objective on at most `max_cells` of the fit's source cells."""
        experiment, objective = self.experiment, self.objective
        config = experiment.context.config
        order = np.random.default_rng([config.seed, 2]).permutation(experiment.fit_rows)
        cells = np.sort(order[: objective.max_cells])
        source, target = self.sides or (experiment.split.source_fit, experiment.split.target_fit)
        what = experiment.cached, cells, experiment.sae
        how: dict[str, Any] = {"mode": objective.mode, "batch_size": config.model.batch_size}
        if objective.name == "latent_final":
            return LatentFinalObjective(*what, experiment.final[target].mean(0), **how)
        y = experiment.expression
        weights = gene_weights(y[target], y[source], experiment.seen_genes, objective.top_n)
        expression = ExpressionObjective(*what, y[target].mean(0), weights, **how)
        if objective.name == "expression":
            return expression
        latent = latent_problem(
            experiment, experiment.layer[target].mean(0), learnable=objective.learnable, mode=objective.mode
        )
        return MixedObjective(latent, expression, objective.weight)

    @cached_property
    def learnable(self) -> np.ndarray:
        """bool (F,)."""
        return learnable_features(self.experiment, self.objective.learnable)

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
            loss, gradient = self.zero
            theta = np.zeros(self.experiment.sae.n_features)
            return ProximalFit(self.lam_max, theta, loss, loss, 0.0, 0.5 / self.lam_max, 0, 1, True, (loss,), gradient)

        def build(folder: Path) -> None:
            record = asdict(self._solve(self.lam_max * NODE_RATIO**-number, self.node(number - 1)))
            np.savez(folder / "node.npz", theta=record.pop("theta"), gradient=record.pop("gradient"))
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

    def _solve(self, lam: float, start: ProximalFit, learnable: np.ndarray | None = None) -> ProximalFit:
        gradient = self.zero[1]
        free = self.learnable if learnable is None else learnable
        scale = prox_gradient_norm(np.zeros_like(gradient), gradient, lam, free)
        return solve(
            self.problem.value_and_gradient,
            start.theta,
            lam,
            learnable=free,
            step=start.step,
            tolerance=self.objective.tolerance * scale,
            max_steps=self.objective.max_steps,
            known=(start.loss, start.gradient),
        )

    def _store(self, number: int, build: Any) -> Path:
        experiment = self.experiment
        settings = {"objective": read_by(self.objective), "node": number, **cells_key(experiment)}
        if self.sides is not None:
            settings["sides"] = [_digest(cells) for cells in self.sides]
        settings["objective"].pop("refit")
        parents = [experiment.streams, experiment.dictionary.artefact]
        parents += learnable_parents(experiment, self.objective.learnable)
        store = experiment.context.store
        return store.get("expression-path", version=VERSION, config=settings, parents=parents, build=build).path


def latent_problem(
    experiment: Experiment, mu: np.ndarray, *, learnable: str = "active", mode: str = "multiply"
) -> LatentProblem:
    """Return the latent problem of the fit's source cells towards an embedding mu (D,).

    To add a vector at a share of the pooled tokens moves every embedding by that share of it: with `add` each cell's
    mean code is that share, and the problem is a lasso as well.
    """
    rows = experiment.fit_rows
    embeddings = experiment.layer[experiment.split.source_fit]
    W_dec = experiment.sae.W_dec.detach().cpu().numpy()
    zbar = experiment.zbar[rows] if mode == "multiply" else np.full((len(rows), len(W_dec)), experiment.token_share)
    return LatentProblem(zbar, W_dec, embeddings, mu, learnable_features(experiment, learnable))


def read_by(objective: ObjectiveConfig) -> dict[str, Any]:
    """Return the settings that an objective reads: the latent one knows no genes, cells or steps."""
    return {name: getattr(objective, name) for name in READ_BY[objective.name]}


def cells_key(experiment: Experiment) -> dict[str, Any]:
    """Return what identifies the target cells and the random choices of a fit."""
    return {"target_cells": _digest(experiment.split.target_fit), "seed": experiment.context.config.seed}


def _digest(cells: np.ndarray) -> str:
    return hashlib.sha256(cells.tobytes()).hexdigest()[:16]
