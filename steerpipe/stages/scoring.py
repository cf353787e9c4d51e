"""Scores of edits on some of an experiment's cells towards some of its targets: what diagnosis and transfer share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..errors import SteerError
from ..evaluate.de import DEGenes
from ..evaluate.distances import distances, score
from ..steering.intervene import Edit, State, recipe_edit, run_edit
from .experiment import Experiment


@dataclass(frozen=True)
class Scorer:
    """Cells that are steered, and the target cells whose mean they are measured to.

    Attributes
    ----------
    rows : positions among the experiment's source cells
    target : the target cells, as positions in the dataset
    genes : DE genes, when they are not the experiment's own
    """

    experiment: Experiment
    rows: np.ndarray
    target: np.ndarray
    genes: DEGenes | None = None

    @cached_property
    def base(self) -> State:
        """The cells unsteered."""
        return self.state(None)

    def state(self, edit: Edit | None) -> State:
        """Return the cells after an edit."""
        batch = self.experiment.context.config.model.batch_size
        return run_edit(self.experiment.cached, self.rows, edit, batch_size=batch)

    def recipe(self, theta: np.ndarray) -> State:
        """Return the cells steered by theta (F,)."""
        experiment = self.experiment
        values = torch.as_tensor(theta, dtype=torch.float32, device=experiment.cached.device)
        return self.state(recipe_edit(experiment.sae, values, experiment.context.config.objective.mode))

    def pairs(self, after: State) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return each cell's distance to the mean target before and after, by space."""
        experiment = self.experiment
        spaces = {"layer": experiment.layer[self.target], "final": experiment.final[self.target]}
        found = {
            space: tuple(distances(getattr(state, space), target.mean(0)) for state in (self.base, after))
            for space, target in spaces.items()
        }
        if experiment.has_head:
            mu = experiment.expression[self.target].mean(0)
            for name, genes in (self.genes or experiment.de_genes).sets().items():
                states = (self.base.expression, after.expression)
                found[f"de_{name}"] = tuple(distances(y[:, genes], mu[genes]) for y in states)
        return found  # type: ignore[return-value]

    def rows_of(self, after: State) -> list[dict[str, Any]]:
        """Return one row a space: evaluate.distances.Score of it."""
        config = self.experiment.context.config
        options: dict[str, Any] = {"n_bootstrap": config.evaluate.n_bootstrap, "seed": config.seed}
        return [{"space": space, **score(*pair, **options).row()} for space, pair in self.pairs(after).items()]

    def wide(self, theta: np.ndarray) -> dict[str, float]:
        """Return share closer and median change in every space, as flat columns; a recipe of zeros moves nothing."""
        rows = self.rows_of(self.recipe(theta))
        return {f"{row['space']}_{name}": row[name] for row in rows for name in ("closer", "change")}


def held_out(experiment: Experiment) -> Scorer:
    """Return the scorer of the experiment's held-out cells."""
    return Scorer(experiment, experiment.held_rows, experiment.split.target_held)


def require_multiply(config: Config, command: str) -> None:
    """Refuse, for commands whose questions are about alpha, the modes that have none."""
    if config.objective.mode != "multiply":
        raise SteerError(f"{command} asks about alpha: objective.mode={config.objective.mode} has none; take multiply.")
