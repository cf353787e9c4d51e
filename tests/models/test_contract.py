"""What holds of every model, whatever its tokens are (models/base.py)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from steerpipe.models.base import PAD, CellModel, by_gene, embedding, hide, n_ids, pooled_stream, read_out

from . import tiny

GENES = [f"g{i}" for i in range(50)]
MODELS = {
    "AIDO.Cell": tiny.aido,
    "scGPT": tiny.scgpt,
    "Geneformer V1": partial(tiny.geneformer, special=False),
    "Geneformer V2": tiny.geneformer,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    if "Geneformer" in request.param:
        pytest.importorskip("transformers")
    return MODELS[request.param](GENES)


@pytest.fixture(scope="module")
def counts():
    """Cells of 4 to 45 expressed genes: more than a small model takes."""
    rng = np.random.default_rng(0)
    share = np.array([0.1, 0.3, 0.5, 0.9, 0.2])[:, None]
    X = rng.poisson(3, (5, len(GENES))) * (rng.random((5, len(GENES))) < share)
    X[:, 0] = 1 + np.arange(5)
    return sp.csr_matrix(X.astype(np.float32))


def test_it_is_a_model(model):
    assert isinstance(model, CellModel)
    assert len(set(model.genes)) == len(model.genes) == 50
    assert (model.predicts is not None) or not model.has_head
    assert not any(p.requires_grad for p in model.parameters())


def test_tokens_are_of_genes_that_a_cell_has_each_once(model, counts):
    tokens = model.tokens(counts)
    assert tokens.values.dtype == torch.float32
    assert tokens.values.shape[-1] == tokens.genes.shape[-1]
    ids = tokens.genes.expand(len(tokens.values), -1).numpy()
    own = model.gene_ids(counts)
    for row in range(len(ids)):
        here = ids[row][ids[row] != PAD]
        assert len(set(here)) == len(here)
        assert here.max() < n_ids(model)
        assert (here >= len(GENES)).sum() == model.n_other
        genes = here[here < len(GENES)]
        if own is None:
            assert model.arch.fixed
            np.testing.assert_array_equal(genes, np.arange(len(GENES)))
        else:
            np.testing.assert_array_equal(genes, own[row])
            assert (counts[row].toarray()[0, genes] > 0).all()
            assert len(genes) == min((counts[row] > 0).sum(), model.arch.max_position_embeddings)


def test_a_pass_from_any_layer_is_the_whole_pass(model, counts):
    tokens, read = model.tokens(counts), torch.tensor([3, 0, 17])
    streams = model.streams(tokens, range(-1, model.arch.num_hidden_layers))
    with torch.no_grad():
        whole = read_out(model, -1, streams[-1], tokens, read)
    for layer, stream in streams.items():
        with torch.no_grad():
            again = read_out(model, layer, stream, tokens, read)
        torch.testing.assert_close(again.final, whole.final, atol=1e-5, rtol=1e-5)
        if whole.expression is None:
            assert model.predicts is None
        else:
            assert whole.expression.shape == (5, 3)
            torch.testing.assert_close(again.expression, whole.expression, atol=1e-5, rtol=1e-5)
        own = None if model.arch.fixed else tokens.genes
        torch.testing.assert_close(model.advance(streams[-1], -1, layer, own), stream, atol=1e-5, rtol=1e-5)


def test_a_cell_is_the_same_whatever_is_in_its_batch(model, counts):
    layer, read = 1, torch.tensor([0, 5, 9, 30])
    tokens = model.tokens(counts)
    together = model.stream(tokens, layer)
    with torch.no_grad():
        outputs = read_out(model, layer, together, tokens, read)
    for row in range(5):
        alone = model.tokens(counts[row])
        n = alone.genes.shape[-1]
        stream = model.stream(alone, layer)
        torch.testing.assert_close(stream[0], together[row, :n], atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            output = read_out(model, layer, stream, alone, read)
        if output.expression is not None:
            torch.testing.assert_close(output.expression[0], outputs.expression[row], atol=1e-5, rtol=1e-5)


def test_the_loss_of_masked_genes_is_that_of_the_model_that_does_not_see_them(model, counts):
    if model.arch.fixed:
        pytest.skip("genes of AIDO.Cell are masked by their values (tests/sae/test_fidelity.py)")
    tokens, last = model.tokens(counts), model.arch.num_hidden_layers - 1
    hidden = (tokens.genes >= 0) & (tokens.genes < len(GENES))
    hidden[:, 3:] = False
    before = tokens.values.clone()
    with torch.no_grad():
        final = model.stream(hide(tokens, hidden), last)
        loss = model.masked_loss(final, tokens, hidden)
        if "rank" in model.predicts:
            logits = model.lm.cls(final).float().log_softmax(-1)
            each = -logits.gather(-1, model.rows[tokens.genes.clamp_min(0)][..., None])[..., 0]
            rows = torch.where(hidden, model.mask_row, model.rows[tokens.genes.clamp_min(0)])
            masked = model.lm.bert(input_ids=rows, attention_mask=(tokens.genes != PAD).long()).last_hidden_state
            there = tokens.genes != PAD
            torch.testing.assert_close(masked[there], final[there], atol=1e-5, rtol=1e-5)
        else:
            each = (model.decoder["fc"](final)[..., 0] - tokens.values).square()
            other = tokens._replace(values=tokens.values + 5 * hidden)  # what is hidden is not read
            assert torch.equal(model.stream(hide(other, hidden), last), final)
    for row in range(5):
        torch.testing.assert_close(loss[row], each[row, hidden[row]].mean())
    assert torch.equal(tokens.values, before)
    assert not torch.equal(model.stream(tokens, last), final)


def test_pooled_embedding_is_the_mean_over_the_genes_that_are_there(model, counts):
    tokens, read = model.tokens(counts), torch.arange(40)
    stream = model.stream(tokens, 1)
    ids = tokens.genes.expand(5, -1)
    for found in (embedding(model, stream, tokens, read), pooled_stream(model, tokens, 1, read)):
        for row in range(5):
            there = (ids[row] >= 0) & (ids[row] < 40)
            torch.testing.assert_close(found[row], stream[row, there].mean(0), atol=1e-5, rtol=1e-5)


def test_nothing_is_random(model, counts):
    first, second = (model.stream(model.tokens(counts), 2) for _ in range(2))
    assert torch.equal(first, second)


def test_a_gene_without_a_token_reads_0_and_has_no_gradient():
    genes = torch.tensor([[2, 0, PAD], [4, 1, 0]])
    values = torch.tensor([[5.0, 6.0, 9.0], [1.0, 2.0, 3.0]], requires_grad=True)
    found = by_gene(values, genes, 5)
    np.testing.assert_array_equal(found.detach(), [[6, 0, 5, 0, 0], [3, 2, 0, 0, 1]])
    found.sum().backward()
    np.testing.assert_array_equal(values.grad, [[1, 1, 0], [1, 1, 1]])
