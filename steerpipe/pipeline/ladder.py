"""The ladder of an objective through the model, rung by rung in the store, from which every fit of a sweep starts.

A rung depends on the one before it alone, so a sweep gives the same bytes in any order and pays for a rung once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..config import READ_BY, ObjectiveConfig
from ..digest import array_digest
from ..steering.ladder import Ladder
from ..steering.proximal import ProximalFit
from .artefact import Artefact, built
from .experiment import Experiment
from .learnable import learnable_features, learnable_parents
from .problems import Groups, ladder_options, model_objective
from .program import program_key

VERSION = 3
ARRAYS = ("theta", "gradient", "moves", "slopes")


class StoredLadder(Ladder):
    """The ladder of an experiment's objective through the model (expression, latent_final or mixed), in the store."""

    def __init__(self, experiment: Experiment, objective: ObjectiveConfig) -> None:
        learnable = learnable_features(experiment, objective.learnable)
        super().__init__(lambda: model_objective(experiment, objective), learnable, **ladder_options(objective))
        self.context, self.parents = experiment.context, recipe_parents(experiment, objective)
        self.reads = {"objective": read_by(experiment, objective), **cells_key(experiment)}
        self.reads["objective"].pop("refit")

    def keep_zero(self, compute: Callable[[], tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
        """Return loss and gradient (F,) at theta = 0 from the store."""

        def build(folder: Path) -> None:
            loss, gradient = compute()
            np.save(folder / "gradient.npy", gradient)
            (folder / "loss.json").write_text(json.dumps(loss))

        path = self._built(0, build)
        return float(json.loads((path / "loss.json").read_text())), np.load(path / "gradient.npy")

    def keep(self, number: int, compute: Callable[[], ProximalFit]) -> ProximalFit:
        """Return a node from the store."""

        def build(folder: Path) -> None:
            record = asdict(compute())
            np.savez(folder / "node.npz", **{name: record.pop(name) for name in ARRAYS})
            (folder / "node.json").write_text(json.dumps(record))

        path = self._built(number, build)
        record = json.loads((path / "node.json").read_text())
        return ProximalFit(**np.load(path / "node.npz"), **record | {"history": tuple(record["history"])})

    def _built(self, number: int, build: Callable[[Path], None]) -> Path:
        reads = self.reads | {"node": number}
        return built(self.context, "expression-path", build, version=VERSION, reads=reads, parents=self.parents).path


def recipe_parents(experiment: Experiment, objective: ObjectiveConfig) -> list[Artefact]:
    """Return the artefacts that a recipe of an objective stands on."""
    first = [experiment.streams, experiment.dictionary.artefact]
    return first + learnable_parents(experiment, objective.learnable)


def read_by(experiment: Experiment, objective: ObjectiveConfig) -> dict[str, Any]:
    """Return the settings that an objective reads: the latent one knows no genes, cells or steps."""
    return {name: getattr(objective, name) for name in READ_BY[objective.name]} | program_key(experiment, objective)


def cells_key(experiment: Experiment, groups: Groups | None = None) -> dict[str, Any]:
    """Return what identifies the cells and the random choices of a fit; the streams name the cells of a plain one."""
    seed = {"seed": experiment.context.config.seed}
    if groups is None:
        return {"target_cells": array_digest(experiment.split.target_fit), **seed}
    rows = [part for sides in groups for part in (sides.source, [-1], sides.target, [-2])]
    return {"groups": array_digest(np.concatenate(rows).astype(np.int64)), **seed}
