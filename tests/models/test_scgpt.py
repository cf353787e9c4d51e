"""scGPT: preprocessing by hand, parity with a second implementation, its folder's bad days."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import types
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.special import softmax

from steerpipe.errors import SteerError
from steerpipe.models.checkpoints import has_head, load_model, model_digest, model_genes, provenance, read_config
from steerpipe.models.scgpt import binned

from . import tiny

GENES = [f"g{i}" for i in range(40)]


@pytest.fixture(scope="module")
def model():
    return tiny.scgpt(GENES)


@pytest.fixture
def folder(model, tmp_path):
    return tiny.save_scgpt(model, tmp_path / "scgpt")


@pytest.fixture(scope="module")
def counts():
    X = np.random.default_rng(1).poisson(1.0, (4, 40))
    X[:, 0] = 1
    return sp.csr_matrix(X.astype(np.float32))


def test_bins_by_hand():
    # 5 bins: zero's, and four edges at the quantiles 0, 1/3, 2/3, 1 of (1, 2, 3, 4): 1, 2, 3, 4
    np.testing.assert_array_equal(binned(np.array([3.0, 1.0, 4.0, 2.0]), 5), [3, 1, 4, 2])
    # the edges of (1, 1, 1, 4) are 1, 1, 1, 4: a one may go to bins 1 to 3, and goes to 2; the four lies above three edges
    np.testing.assert_array_equal(binned(np.array([1.0, 1.0, 1.0, 4.0]), 5), [2, 2, 2, 4])
    # counts and their logarithm have the same bins
    x = np.random.default_rng(0).integers(1, 30, 200).astype(np.float64)
    np.testing.assert_array_equal(binned(x, 51), binned(np.log1p(x / x.sum() * 1e4), 51))
    assert binned(x, 51).min() >= 1
    assert binned(x, 51).max() <= 50


def test_tokens_by_hand(model):
    row = np.zeros(40, np.float32)
    row[[7, 3, 20]] = 2, 5, 1
    tokens = model.tokens(sp.csr_matrix(row[None]))
    np.testing.assert_array_equal(tokens.genes, [[40, 3, 7, 20]])  # <cls> first, then genes by id
    # the 10 edges of (1, 2, 5) are 1, 11/9, 13/9, 15/9, 17/9, 7/3, 3, 11/3, 13/3, 5
    np.testing.assert_array_equal(tokens.values, [[-2, 10, 5, 1]])
    with pytest.raises(SteerError, match="1 cells have no count"):
        model.tokens(sp.csr_matrix(np.zeros((1, 40), np.float32)))


def plain_forward(state, rows, values, heads):
    """scGPT for one cell without padding in numpy float64, from its formulae: streams after each block, predicted values."""
    W = {k: v.double().numpy() for k, v in state.items()}

    def linear(x, name):
        return x @ W[f"{name}.weight"].T + W[f"{name}.bias"]

    def ln(r, name):
        centred = r - r.mean(-1, keepdims=True)
        return centred / np.sqrt(r.var(-1, keepdims=True) + 1e-5) * W[f"{name}.weight"] + W[f"{name}.bias"]

    e = "value_encoder"
    value = linear(np.maximum(linear(np.minimum(values, 512)[:, None], f"{e}.linear1"), 0), f"{e}.linear2")
    r = ln(W["encoder.embedding.weight"][rows], "encoder.enc_norm") + ln(value, f"{e}.norm")
    streams = []
    for i in range(sum(k.endswith("norm1.weight") for k in W)):
        b = f"transformer_encoder.layers.{i}"
        q, k, v = np.split(r @ W[f"{b}.self_attn.in_proj_weight"].T + W[f"{b}.self_attn.in_proj_bias"], 3, axis=1)
        hd, o = q.shape[1] // heads, np.zeros_like(q)
        for j in range(heads):
            s = slice(j * hd, (j + 1) * hd)
            o[:, s] = softmax(q[:, s] @ k[:, s].T / math.sqrt(hd), axis=-1) @ v[:, s]
        r = ln(r + linear(o, f"{b}.self_attn.out_proj"), f"{b}.norm1")
        r = ln(r + linear(np.maximum(linear(r, f"{b}.linear1"), 0), f"{b}.linear2"), f"{b}.norm2")
        streams.append(r)
    y = r
    for i in (0, 2):
        y = linear(y, f"decoder.fc.{i}")
        y = np.where(y > 0, y, 0.01 * y)
    return streams, linear(y, "decoder.fc.4")[:, 0]


def test_equals_the_plain_implementation(model, counts):
    tokens = model.tokens(counts)
    streams = model.streams(tokens, [0, 1, 2])
    output = model.forward_from(2, streams[2], None, tokens.genes)
    for cell in range(4):
        ids = tokens.genes[cell][tokens.genes[cell] >= 0].numpy()
        rows = model.rows.numpy()[ids]
        plain, predicted = plain_forward(model.state_dict(), rows, tokens.values[cell, : len(ids)].double().numpy(), heads=2)
        for i in range(3):
            np.testing.assert_allclose(streams[i][cell, : len(ids)], plain[i], atol=1e-5)
        np.testing.assert_allclose(output.expression[cell, ids[1:]], predicted[1:], atol=1e-5)
        absent = np.setdiff1d(np.arange(40), ids)
        assert (output.expression[cell, absent] == 0).all()


def published():
    """The published TransformerModel, without the packages that scgpt's __init__ imports."""
    found = importlib.util.find_spec("scgpt")
    if found is None:
        pytest.skip("pip install --no-deps scgpt")
    place = found.submodule_search_locations[0]
    for name, path in (("scgpt", place), ("scgpt.model", f"{place}/model")):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no flash attention
        return importlib.import_module("scgpt.model.model").TransformerModel


@pytest.mark.oracle
def test_equals_the_published_code(model, counts):
    vocabulary = {gene: i for i, gene in enumerate(GENES)} | {"<pad>": 40, "<cls>": 41, "<eoc>": 42}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = published()(43, 16, 2, 24, 3, vocab=vocabulary, dropout=0.0, pad_value=-2).eval()
        missing, extra = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not extra
    assert all(name.startswith("cls_decoder.") for name in missing)
    tokens = model.tokens(counts)
    there = tokens.genes >= 0
    rows = torch.where(there, model.rows[tokens.genes.clamp_min(0)], 40)
    values = torch.where(there, tokens.values, -2.0)
    found: list[torch.Tensor] = []
    for layer in theirs.transformer_encoder.layers:
        layer.register_forward_hook(lambda module, args, out: found.append(out.detach()))
    theirs.transformer_encoder.enable_nested_tensor = False
    with torch.enable_grad():  # its fast path, of inference alone, fuses the layers
        whole = theirs._encode(rows, values, ~there)
        predicted = theirs.decoder(whole)["pred"].detach()
    streams = model.streams(tokens, [0, 1, 2])
    print("max |difference| by block:", [float((found[i] - streams[i])[there].abs().max()) for i in range(3)])
    for i in range(3):
        torch.testing.assert_close(streams[i][there], found[i][there], atol=2e-6, rtol=1e-5)
    ours = model.forward_from(2, streams[2], None, tokens.genes).expression
    genes = there & (tokens.genes < 40)
    torch.testing.assert_close(ours.gather(1, tokens.genes.clamp(0, 39))[genes], predicted[genes], atol=2e-6, rtol=1e-5)


def test_its_folder_is_read_as_it_was_written(model, folder, counts):
    again = load_model(folder)
    assert again.genes == model_genes(folder) == tuple(GENES)
    assert read_config(folder) == again.arch == model.arch
    assert has_head(folder)
    assert again.has_head
    assert "MIT" in provenance(folder)["licence"]
    tokens = model.tokens(counts)
    assert torch.equal(again.stream(tokens, 2), model.stream(tokens, 2))
    before = model_digest(folder)
    (folder / "vocab.json").write_text((folder / "vocab.json").read_text() + " ")
    assert model_digest(folder) != before


def test_genes_beyond_the_limit_are_left_out_alike_in_every_cell(model):
    X = np.ones((2, 40), np.float32)
    X[1, :2] = 0
    first, second = model.gene_ids(sp.csr_matrix(X))
    assert len(first) == len(second) == 30
    assert len(np.setdiff1d(first, second)) <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "vocab.json").unlink(), "has no vocab.json"),
        (lambda f: (f / "best_model.pt").unlink(), "has no best_model.pt"),
        (lambda f: (f / "config.json").write_text("{}"), "files of two models"),
        (lambda f: (f / "genes.csv").write_text("gene"), "args.json and genes.csv, files of two models"),
        (lambda f: (f / "args.json").unlink(), "looks like scGPT's, but has no args.json"),
        (lambda f: (f / "args.json").write_text("[]"), "not JSON of a model's settings"),
        (lambda f: set_arg(f, "embsize", "wide"), "embsize must be whole numbers"),
        (lambda f: set_arg(f, "input_emb_style", "category"), "only 'continuous'"),
        (lambda f: set_arg(f, "nlayers", 4), "keys missing"),
        (lambda f: set_arg(f, "d_hid", 25), "linear1.weight has shape"),
        (lambda f: (f / "best_model.pt").write_bytes(b"no"), "cannot be read as weights"),
        (lambda f: torch.save({"bn.weight": torch.zeros(1)}, f / "best_model.pt"), "batch norm"),
    ],
)
def test_a_folder_that_is_wrong_is_told_in_one_line(folder, change, message):
    change(folder)
    with pytest.raises(SteerError, match=message) as told:
        load_model(folder)
    assert "\n" not in str(told.value)


def set_arg(folder, name, value):
    """Change one of args.json's settings."""
    file = folder / "args.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
