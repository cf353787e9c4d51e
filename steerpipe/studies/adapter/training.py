"""Adapters in the store: trained once for each fold, network and seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from ...config import Config, as_dict
from ...errors import SteerError
from ...pipeline.artefact import Artefact, built
from ...pipeline.experiment import Experiment
from ...pipeline.ladder import read_by, recipe_parents
from ...pipeline.learnable import learnable_features
from ...pipeline.problems import weight_of
from ...steering.adapters import Adapter, Tasks, lam_max, made, train

VERSION = 1
READ = ("task", "hidden", "unrolled", "steps", "batch", "lr", "weight_decay")


def check_objective(config: Config) -> None:
    """Refuse an objective that the closed form of adapters.py is not.

    Raises
    ------
    SteerError
        What it is, and what is allowed.
    """
    objective = config.objective
    plain = objective.match == "population" and objective.metric == "euclidean" and not objective.orthogonal
    if objective.name != "latent" or objective.mode != "multiply" or not plain or tuple(objective.bounds) != (None, None):
        raise SteerError(
            "adapters minimise objective=latent with objective.match=population, mode=multiply, metric=euclidean and no bounds."
        )


class State:
    """Per-cell codes and embeddings of an experiment's rows, from which populations are drawn.

    Attributes
    ----------
    codes : float64 (n_rows, F), 0 where a feature may not be changed
    layer : float64 (n_rows, D); rows beyond the streamed ones have none
    W : float64 (F, D)
    """

    def __init__(self, experiment: Experiment) -> None:
        free = learnable_features(experiment, experiment.context.config.objective.learnable)
        self.codes = np.where(free, experiment.zbar, 0.0)
        self.layer = np.asarray(experiment.layer[experiment.cells], np.float64)
        self.W = experiment.sae.W_dec.detach().cpu().double().numpy()
        self.lam = experiment.context.config.lam

    def weights(self, zbar: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        """Return the penalty's weight of each task, (B,)."""
        return np.array([weight_of(self.lam, float(one)) for one in lam_max(zbar, self.W, gaps)])


def trained(
    experiment: Experiment,
    name: str,
    n_inputs: int,
    draw: Callable[[np.random.Generator], Tasks],
    state: State,
    reads: dict[str, Any],
    *,
    seed: int,
    scale: float | None = None,
    finish: Callable[[Adapter], None] | None = None,
) -> tuple[Adapter, Artefact]:
    """Return a trained adapter from the store.

    Parameters
    ----------
    draw : draws a batch of tasks
    reads : what, beside the settings of a training, the tasks depend on: cells, features, and how they are dealt
    scale : length of a usual gap, where the network does not know it
    finish : goes on with the trained network
    """
    config = experiment.context.config
    settings = as_dict(config.adapter)
    device = experiment.cached.device

    def make() -> Adapter:
        return Adapter(
            name,
            n_inputs,
            state.W,
            hidden=config.adapter.hidden,
            unrolled=config.adapter.unrolled,
            knows_gap=scale is None,
            scale=1.0 if scale is None else scale,
        )

    def build(folder: Path) -> None:
        adapter = made(seed, make)
        losses = train(
            adapter,
            draw,
            state.W,
            steps=config.adapter.steps,
            lr=config.adapter.lr,
            weight_decay=config.adapter.weight_decay,
            seed=seed,
            device=device,
        )
        if finish is not None:
            finish(adapter)
        save_file(
            {key: value.cpu().contiguous() for key, value in adapter.state_dict().items()}, folder / "adapter.safetensors"
        )
        (folder / "losses.json").write_text(json.dumps(losses))

    key = {"network": name, "inputs": n_inputs, "scale": scale, "seed": seed, "lambda": as_dict(config.lam)}
    key |= {one: settings[one] for one in READ}
    key |= {"objective": read_by(experiment, config.objective), **reads}
    parents = recipe_parents(experiment, config.objective)
    artefact = built(experiment.context, "adapter", build, version=VERSION, reads=key, parents=parents)
    adapter = made(seed, make).to(device)
    adapter.load_state_dict(load_file(artefact.path / "adapter.safetensors"))
    return adapter.eval(), artefact


def mixing(groups: list[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
    """Return weights (len(groups), n) of bootstrap means: each row one resample of its group's rows, of a random size."""
    weights = np.zeros((len(groups), n))
    for weight, rows in zip(weights, groups, strict=True):
        size = int(rng.integers(max(2, len(rows) // 3), len(rows) + 1))
        weight[rows] = rng.multinomial(size, np.full(len(rows), 1 / len(rows))) / size
    return weights
