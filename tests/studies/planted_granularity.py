"""Cells whose targets differ along known decoder directions: orthogonal ones, so that a target of n features needs those n."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from steerpipe.cli.hydra import compose
from steerpipe.evaluate.population import Population, fit_probe
from steerpipe.pipeline.experiment import Sides
from steerpipe.steering.contrast_streams import CellRows
from steerpipe.studies.granularity.compute import Bench, Groups, random_table, unit_table
from steerpipe.studies.granularity.table import target_row
from steerpipe.studies.granularity.targets import Target

WIDTH, FIT, HELD, NOISE = 96, 40, 24, 0.15
SETTINGS = ("granularity.n_permutations=20", "granularity.n_random=20", "granularity.sizes=[1,2,3,4,6,8,12,16,32,64]")


class LayerScorer:
    """The scores of a layer without a model above it: to steer is to add the shift."""

    def __init__(self, bench, before, goal, fit):
        self.bench = bench
        self.before, self.rows = before, bench.target.held
        self.population = Population(before, goal, fit_probe(*fit), seed=0)

    def shift(self, theta, mode):
        assert mode == "multiply"
        return (self.bench.experiment.zbar[self.bench.target.held] * theta) @ self.bench.W_dec

    def layer_values(self, moved):
        return {("layer", name): value for name, value in self.population.values(self.before + moved).items()}


def rows_of(direction, *, modules=(), silent=(), seed=0):
    """Return the readings, units and random units of one target: its cells are the source's, moved by a direction (F,).

    `silent` features fire in one cell of the fit alone.
    """
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    n = 2 * (FIT + HELD)
    zbar = 0.5 + 0.02 * rng.standard_normal((n, WIDTH))
    zbar[:, list(silent)] = 0
    zbar[0, list(silent)] = 0.01
    layer = zbar @ W + NOISE * rng.standard_normal((n, WIDTH))
    parts = np.split(np.arange(n), np.cumsum([FIT, FIT, HELD]))
    fit, held = Sides(*parts[:2]), Sides(*parts[2:])
    for rows in (fit.target, held.target):
        layer[rows] += np.asarray(direction) @ W
    config = compose(*SETTINGS)
    experiment = SimpleNamespace(
        context=SimpleNamespace(config=config),
        cells=np.arange(n),
        layer=CellRows(np.arange(n), layer),
        zbar=zbar,
        activity=np.abs(zbar),
        cached=SimpleNamespace(token_share=1.0, device=torch.device("cpu")),
        sae=SimpleNamespace(W_dec=torch.from_numpy(W)),
        has_head=False,
    )
    others = np.eye(WIDTH)[-3:] @ W
    target = Target("planted", "pair", fit, held.source, held.target, others)
    objective = config.objective
    bench = Bench(experiment, target, objective)
    labels = np.full(WIDTH, -1)
    for number, members in enumerate(modules):
        labels[members] = number
    found = Groups(*([np.flatnonzero(labels == i) for i in range(len(modules))] for _ in range(2)))
    how = LayerScorer(bench, layer[held.source], layer[held.target], (layer[fit.source], layer[fit.target]))
    units, random = unit_table(bench, found, how, config.granularity), random_table(bench, found, config.granularity)
    return target_row(units, random), units, random
