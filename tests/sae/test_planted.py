"""Our training finds a planted dictionary of correlated features; a random dictionary of the same size does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.sae.planted import GROUP, draw, plant, recovery
from steerpipe.activations.shards import Shards, layer_folder, write_index, write_shard
from steerpipe.activations.tokens import TokenPolicy
from steerpipe.config import SaeConfig
from steerpipe.sae.train import train_sae


def test_features_of_a_group_fire_together_and_groups_do_not(rng):
    codes = draw(rng, 20_000, np.full(4 * GROUP, 1.3, np.float32))
    r = np.corrcoef((codes > 0).T)
    within = np.kron(np.eye(4), np.ones((GROUP, GROUP))) - np.eye(4 * GROUP)
    assert r[within == 1].mean() > 0.3
    assert np.abs(r[np.kron(np.eye(4), np.ones((GROUP, GROUP))) == 0]).mean() < 0.02
    assert (codes > 0).mean() == pytest.approx(0.097, abs=0.01)  # P(N > 1.3)


def test_a_dictionary_recovers_itself_whatever_its_order(rng):
    truth = rng.standard_normal((60, 20))
    assert recovery(truth, truth[rng.permutation(60)]) == {"mmcs": pytest.approx(1), "matched": 1.0}
    half = recovery(truth, np.concatenate([truth[:30], truth[:30]]))
    assert half["matched"] == 0.5


def test_training_recovers_a_planted_dictionary_of_correlated_features(tmp_path):
    width, n_true, k = 64, 64, 4
    tokens, truth = plant(40_000, width, n_true, 3, 0)
    layer_folder(tmp_path, 0).mkdir()
    write_shard(layer_folder(tmp_path, 0), 0, tokens, "float32")
    write_index(tmp_path, [0], np.full(40, 1000), 1000, 40, TokenPolicy())
    config = SaeConfig(expansion=4, k=k, tokens=400_000, batch_size=1000, lr=5e-3)
    sae = train_sae(Shards(tmp_path, 0), np.arange(40), config, tmp_path, device=torch.device("cpu"))
    found = recovery(truth, sae.W_dec.numpy())
    control = recovery(truth, np.random.default_rng(1).standard_normal((4 * width, width)))
    assert control["mmcs"] < 0.5
    assert control["matched"] == 0
    assert found["mmcs"] > 0.93
    assert found["matched"] > 0.8
