"""Streams stay on the device within a batch: what leaves it does so once a batch, whatever the number of cells."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from steerpipe.activations.extract import extract
from steerpipe.models.preprocess import model_input
from steerpipe.sae.model import TopKSAE
from steerpipe.steering.intervene import CachedCells, run_edit, scale_features
from steerpipe.steering.objectives import ExpressionObjective

CELLS, VALID = 6, np.arange(0, 40, 2)


@pytest.fixture
def leaving(monkeypatch):
    """The shapes of tensors that were asked to leave the device."""
    shapes = []
    leave = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: shapes.append(tuple(self.shape)) or leave(self))
    return shapes


@pytest.fixture(scope="module")
def counts(tiny_model):
    return sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (CELLS, tiny_model.n_genes)).astype(np.float32))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6])
def test_an_extracted_batch_leaves_the_device_once_a_layer(counts, tiny_model, tmp_path, leaving, batch_size):
    assert extract(tiny_model, counts, VALID, [0, 1], tmp_path, batch_size=batch_size, dtype="float32")
    n_batches = -(-CELLS // batch_size)
    assert len(leaving) == 2 * 2 * n_batches  # two layers: tokens and means
    assert max(shape[0] for shape in leaving) == batch_size * len(VALID)


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_steering_leaves_the_device_once_for_all_cells_and_a_gradient_once(counts, tiny_model, leaving, batch_size):
    streams = tiny_model.stream(model_input(counts, tiny_model.arch.depth), 0).numpy()
    cached = CachedCells(tiny_model, 0, streams, torch.from_numpy(VALID))
    sae = TopKSAE(streams.shape[2], 48, 6).initialise(3).requires_grad_(False)
    leaving.clear()
    run_edit(cached, np.arange(CELLS), scale_features(sae, torch.ones(48)), batch_size=batch_size)
    assert len(leaving) == 3  # layer, final, expression
    mu, weights = np.zeros(len(VALID), np.float32), np.full(len(VALID), 1 / len(VALID), np.float32)
    problem = ExpressionObjective(cached, np.arange(CELLS), sae, mu, weights, batch_size=batch_size)
    leaving.clear()
    problem.value_and_gradient(np.zeros(48))
    assert leaving == [(48,)]
