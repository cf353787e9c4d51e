"""The scores of a pretrained model, beside its peers, where the model's predictions are planted."""

from __future__ import annotations

import numpy as np
import pytest

from steerpipe.pretraining import score as pretrained
from steerpipe.pretraining.score import Profiles, masked_table


@pytest.fixture
def counts(rng):
    rate = rng.gamma(1.0, 2.0, (2, 120)) + 0.2
    return rng.poisson(rate[rng.integers(2, size=500)])


@pytest.mark.parametrize("off", [0.0, 0.1])
def test_how_far_peers_are_behind_a_model_that_knows_the_truth(counts, monkeypatch, off):
    data = Profiles(counts[400:], np.arange(100))
    monkeypatch.setattr(pretrained, "_model_masked", lambda model, data, masked: data.log[:, masked] + off)
    table = masked_table(None, data, counts[:400].astype(np.uint16), n_masks=2).set_index("predictor")
    assert table["mse"]["model"] == pytest.approx(off**2, abs=1e-6)
    assert table["behind_model"]["model"] == table["behind_model_ci"]["model"] == 0
    np.testing.assert_allclose(table["behind_model"], table["mse_over_mean"] - table["mse_over_mean"]["model"], atol=1e-6)
    assert (table["behind_model"] > table["behind_model_ci"]).drop("model").all()
    assert table["mse_over_mean"]["gene mean"] == pytest.approx(1)
    assert table["mse_over_mean"]["kNN"] < 0.95  # two groups of cells: neighbours know which
