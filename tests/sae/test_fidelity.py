"""Spliced-in fidelity: nothing replaced is 1, the mean vector is 0, and the losses are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.config import DatasetConfig
from steerpipe.data.cells import CellSource
from steerpipe.models.base import hide
from steerpipe.models.preprocess import MASK, model_input
from steerpipe.pretraining.thinning import log_cp10k
from steerpipe.sae.baselines import LinearDictionary
from steerpipe.sae.fidelity import fidelity, splice_losses
from steerpipe.sae.metrics import nearest_cosine

from ..models import tiny

LAYER = 1


@pytest.fixture(scope="module")
def spliced(cells, tiny_model):
    """Losses of an exact dictionary, of one that only knows the mean, and of one that loses half of the dimensions."""
    source = CellSource(cells, tiny_model.genes, DatasetConfig())
    counts, valid = source[:10], source.valid
    with torch.no_grad():
        mean = tiny_model.stream(model_input(counts, tiny_model.arch.depth, fold=1.0), LAYER)[:, valid].mean((0, 1))
    D = len(mean)
    exact = LinearDictionary(mean, torch.eye(D), torch.eye(D), D)
    every = {"exact": exact, "nothing": LinearDictionary(mean, torch.zeros(D, D), torch.eye(D), D), "half": exact.first(D // 2)}
    options = {"masked_share": 0.2, "seed": 3, "batch_size": 4}
    return counts, valid, mean, splice_losses(tiny_model, counts, valid, LAYER, every, mean, **options)


def test_bounds(spliced):
    found = fidelity(spliced[-1]).set_index("dictionary")
    assert found.loc["exact"].to_numpy() == pytest.approx([1, 1], abs=1e-4)
    assert found.loc["nothing"].to_numpy() == pytest.approx([0, 0], abs=1e-4)
    assert found.loc["half", "fidelity_expression"] < 0.999


def test_losses_equal_their_definition(spliced, tiny_model):
    counts, valid, mean, losses = spliced
    hidden = np.sort(np.random.default_rng([3, 21]).choice(len(valid), round(0.2 * len(valid)), replace=False))
    values = model_input(counts, tiny_model.arch.depth, fold=1.0)
    values[:, valid[hidden]] = MASK
    with torch.no_grad():
        whole = tiny_model(values).expression[:, valid].numpy()
        stream = tiny_model.stream(values, LAYER)
        stream[:, valid] = mean
        blank = tiny_model.forward_from(LAYER, stream).expression[:, valid].numpy()
    truth = log_cp10k(counts.toarray())[:, valid]
    for name, y in {"model": whole, "mean": blank}.items():
        mine = losses[losses["dictionary"] == name].sort_values("cell")
        np.testing.assert_allclose(mine["masked_loss"], np.square(y - truth)[:, hidden].mean(1), rtol=1e-4)
        np.testing.assert_allclose(mine["change"], np.square(y - whole).mean(1), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", ["scGPT", "Geneformer"])
def test_bounds_and_losses_where_cells_have_tokens_of_their_own(cells, tiny_genes, kind):
    if kind == "scGPT":
        model = tiny.scgpt(tiny_genes, most=60)
    else:
        pytest.importorskip("transformers")
        model = tiny.geneformer(tiny_genes, most=60)
    source = CellSource(cells, model.genes, DatasetConfig())
    counts, valid = source[:6], source.valid
    tokens, last = model.tokens(counts), model.arch.num_hidden_layers - 1
    there = (tokens.genes >= 0) & (tokens.genes < len(model.genes))
    mean = model.stream(tokens, LAYER)[there].mean(0)
    D = len(mean)
    exact = LinearDictionary(mean, torch.eye(D), torch.eye(D), D)
    every = {"exact": exact, "nothing": LinearDictionary(mean, torch.zeros(D, D), torch.eye(D), D), "half": exact.first(D // 2)}
    losses = splice_losses(model, counts, valid, LAYER, every, mean, masked_share=0.2, seed=3, batch_size=4)
    found = fidelity(losses).set_index("dictionary")
    assert found.loc["exact"].to_numpy() == pytest.approx([1, 1], abs=1e-4)
    assert found.loc["nothing"].to_numpy() == pytest.approx([0, 0], abs=1e-4)
    assert found.loc["half", "fidelity_expression"] < 0.999
    for cell in range(6):  # the second batch has cells of its own: each is masked by its own number
        at = np.flatnonzero(there[cell])
        hidden = torch.zeros_like(there[cell : cell + 1])
        hidden[0, np.random.default_rng([3, 21, cell]).choice(at, max(1, round(0.2 * len(at))), replace=False)] = True
        own = tokens._replace(values=tokens.values[cell : cell + 1], genes=tokens.genes[cell : cell + 1])
        with torch.no_grad():
            wanted = model.masked_loss(model.stream(hide(own, hidden), last), own, hidden)
        mine = losses[(losses["dictionary"] == "model") & (losses["cell"] == cell)]
        np.testing.assert_allclose(mine["masked_loss"], wanted, rtol=1e-4)


def test_nearest_cosine_leaves_out_the_row_itself():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    np.testing.assert_allclose(nearest_cosine(rows), [0.5**0.5] * 3, atol=1e-6)
