"""The masked readout: every gene's expression is read from a cell in which it was hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.models.preprocess import MASK
from steerpipe.sae.model import TopKSAE
from steerpipe.steering.intervene import CachedCells, MaskedReadout, run_edit, scale_features
from steerpipe.steering.objectives import ExpressionObjective

from ..conftest import random_model

GENES, VALID = 30, torch.tensor([0, 2, 3, 7, 8, 9, 15, 21, 22, 28])
GROUPS = (np.array([0, 3, 9]), np.array([1, 2, 4, 5]), np.array([6, 7, 8]))


@pytest.fixture(scope="module")
def world():
    model = random_model([f"g{i}" for i in range(GENES)], seed=1)
    values = torch.rand(5, GENES + 2, generator=torch.Generator().manual_seed(2)) * 4
    masked = []
    for columns in GROUPS:
        hidden = values.clone()
        hidden[:, VALID[torch.from_numpy(columns)]] = MASK
        masked.append(MaskedReadout(model.stream(hidden, 0).numpy(), columns))
    sae = TopKSAE(32, 48, 6).initialise(3).requires_grad_(False)
    return CachedCells(model, 0, model.stream(values, 0).numpy(), VALID, tuple(masked)), sae, values


def steered_by_hand(world, theta):
    """Predicted expression (5, G_valid): mask a group, run the model, edit, read that group."""
    cached, sae, values = world
    out = torch.zeros(5, len(VALID))
    for columns in GROUPS:
        where = torch.from_numpy(columns)
        hidden = values.clone()
        hidden[:, VALID[where]] = MASK
        stream = cached.model.stream(hidden, 0)
        z = sae.encode(stream[:, VALID]).dense(48)
        stream = stream.index_add(1, VALID, (theta * z) @ sae.W_dec)
        out[:, where] = cached.model.forward_from(0, stream).expression[:, VALID[where]]
    return out


def test_each_gene_is_read_where_it_is_hidden(world):
    cached, sae, values = world
    theta = torch.linspace(-1, 1, 48)
    state = run_edit(cached, np.arange(5), scale_features(sae, theta), batch_size=2)
    np.testing.assert_allclose(state.expression, steered_by_hand(world, theta), atol=1e-5)
    plain = run_edit(cached, np.arange(5), None)
    np.testing.assert_allclose(plain.expression, steered_by_hand(world, torch.zeros(48)), atol=1e-5)
    assert np.abs(plain.expression - cached.model(values).expression[:, VALID].numpy()).max() > 0.01
    # embeddings are those of the whole cell
    np.testing.assert_allclose(plain.layer, cached.streams[:, VALID].mean(1), atol=1e-6)


@pytest.mark.parametrize("match", ["population", "cell"])
@pytest.mark.parametrize("batch_size", [2, 3])
def test_the_expression_objective_and_its_gradient(world, match, batch_size):
    cached, sae, _ = world
    rng = np.random.default_rng(0)
    mu, weights = rng.normal(size=10).astype(np.float32), rng.random(10).astype(np.float32)
    weights[GROUPS[1]] = 0  # a group that nobody weighs is not run
    objective = ExpressionObjective(cached, np.array([0, 2, 4]), sae, mu, weights, batch_size=batch_size, match=match)
    assert len(objective.passes) == 2
    theta = rng.normal(0, 0.3, 48)
    y = steered_by_hand(world, torch.from_numpy(theta).float())[[0, 2, 4]].numpy()
    value, gradient = objective.value_and_gradient(theta)
    gaps = y - mu if match == "cell" else y.mean(0, keepdims=True) - mu
    assert value == pytest.approx(float((np.square(gaps) * weights).sum(1).mean()), rel=1e-4)
    step = 1e-2
    for direction in (gradient / np.linalg.norm(gradient), np.eye(48)[np.abs(gradient).argmax()]):
        slope = (objective.value(theta + step * direction) - objective.value(theta - step * direction)) / (2 * step)
        assert float(gradient @ direction) == pytest.approx(slope, rel=0.01)
