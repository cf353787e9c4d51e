"""The model against a second, plain implementation; preprocessing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax

from steerpipe.errors import SteerError
from steerpipe.models.aido_cell import AidoCell, ArchConfig
from steerpipe.models.preprocess import MASK, DepthRule, model_input

from ..conftest import random_model


def plain_forward(state, x, heads):
    """AIDO.Cell for one cell in numpy float64, from its formulae: streams after each block, final, logits."""
    W = {k: v.double().numpy() for k, v in state.items()}

    def ln(r, name):
        centred = r - r.mean(-1, keepdims=True)
        return centred / np.sqrt(r.var(-1, keepdims=True) + 1e-5) * W[f"{name}.weight"] + W[f"{name}.bias"]

    g = "bert.gene_embedding"
    h = x[:, None] * W[f"{g}.linear1.weight"][:, 0] + W[f"{g}.linear1.bias"]
    h = np.where(h > 0, h, 0.1 * h)
    e = softmax(h + h @ W[f"{g}.linear2.weight"].T + W[f"{g}.linear2.bias"], axis=-1) @ W[f"{g}.lookup_table.weight"]
    e[x == -1], e[x == -2] = W[f"{g}.mask_embedding.weight"][0], W[f"{g}.pad_embedding.weight"][0]
    r = e + W["bert.position_embedding.weight"][: len(x)]
    streams = []
    for i in range(sum(k.endswith("attention.ln.weight") for k in W)):
        b = f"bert.encoder.layer.{i}"
        a = ln(r, f"{b}.attention.ln")
        q, k, v = (a @ W[f"{b}.attention.self.{n}.weight"].T for n in ("query", "key", "value"))
        hd = q.shape[1] // heads
        o = np.zeros_like(q)
        for j in range(heads):
            s = slice(j * hd, (j + 1) * hd)
            o[:, s] = softmax(q[:, s] @ k[:, s].T / math.sqrt(hd), axis=-1) @ v[:, s]
        r = r + o @ W[f"{b}.attention.output.dense.weight"].T
        m = ln(r, f"{b}.ln")
        gate = m @ W[f"{b}.mlp.gate_proj.weight"].T
        r = r + (gate / (1 + np.exp(-gate)) * (m @ W[f"{b}.mlp.up_proj.weight"].T)) @ W[f"{b}.mlp.down_proj.weight"].T
        streams.append(r)
    final = ln(r, "bert.encoder.ln")
    p = "cls.predictions"
    t = final @ W[f"{p}.transform.dense.weight"].T + W[f"{p}.transform.dense.bias"]
    t = ln(t * 0.5 * (1 + erf(t / math.sqrt(2))), f"{p}.transform.LayerNorm")
    return streams, final, t @ W[f"{p}.decoder.weight"][0] + W[f"{p}.decoder.bias"][0]


@pytest.fixture(scope="module")
def model():
    return random_model([f"g{i}" for i in range(60)], seed=3)


@pytest.fixture(scope="module")
def values():
    x = torch.rand(4, 62, generator=torch.Generator().manual_seed(1)) * 5
    x[:, 5], x[:, 9] = -1, -2
    return x


def test_equals_the_plain_implementation(model, values):
    output = model(values)
    streams = model.streams(values, [-1, 0, 1, 2])
    for cell in range(len(values)):
        plain, final, logits = plain_forward(model.state_dict(), values[cell].double().numpy(), heads=2)
        for i in range(3):
            np.testing.assert_allclose(streams[i][cell], plain[i], atol=1e-4)
        np.testing.assert_allclose(output.final[cell], final, atol=1e-4)
        np.testing.assert_allclose(output.expression[cell], logits, atol=1e-4)


@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_forward_from_any_layer_equals_the_full_forward(model, values, layer):
    whole = model(values)
    part = model.forward_from(layer, model.stream(values, layer))
    assert (part.final - whole.final).abs().max() <= 1e-5
    assert (part.expression - whole.expression).abs().max() <= 1e-5


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_reading_some_positions_equals_reading_all(model, values, layer):
    read = torch.tensor([3, 17, 40])
    whole = model(values)
    part = model.forward_from(layer, model.stream(values, layer), read)
    assert part.expression.shape == (4, 3)
    assert (part.final - whole.final[:, read]).abs().max() <= 1e-5
    assert (part.expression - whole.expression[:, read]).abs().max() <= 1e-5


def test_streams_of_some_positions_equal_those_of_all(model, values):
    read = torch.tensor([3, 17, 40])
    whole, part = model.streams(values, [-1, 0, 1]), model.streams(values, [-1, 0, 1], read=read)
    for layer in (-1, 0, 1):
        assert part[layer].shape == (4, 3, whole[layer].shape[2])
        assert (part[layer] - whole[layer][:, read]).abs().max() <= 1e-5


def test_the_highest_block_is_run_for_the_positions_that_are_read(model, values):
    seen = []
    handle = model.blocks[1].ln.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    model.stream(values, 1, read=torch.tensor([3, 17, 40]))
    model.stream(values, 1)
    handle.remove()
    assert seen == [3, values.shape[1]]


def test_explicit_positions_are_honoured(model, values):
    order = torch.randperm(62, generator=torch.Generator().manual_seed(0))
    shuffled = model(values[:, order], order)
    np.testing.assert_allclose(shuffled.expression, model(values).expression[:, order], atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "parameters", "keys"),
    [((128, 6, 4, 320), 3_640_125, 83), ((256, 8, 8, 640), 11_073_085, 105), ((640, 18, 20, 1664), 99_864_381, 215)],
)
def test_published_sizes(sizes, parameters, keys):
    with torch.device("meta"):
        model = AidoCell(ArchConfig(*sizes, 19_264), ["g"] * 19_264)
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(state) + 1 == keys  # published files name the output bias twice
    assert state["bert.encoder.layer.0.attention.self.query.weight"].shape == (sizes[0], sizes[0])
    assert state["bert.position_embedding.weight"].shape == (19_266, sizes[0])
    assert state["cls.predictions.transform.LayerNorm.bias"].shape == (sizes[0],)


def test_preprocessing_golden_values():
    counts = np.zeros((2, 5))
    counts[0, :2] = 1, 1677
    counts[1, 3] = 250_000
    x = model_input(counts, DepthRule())
    np.testing.assert_allclose(x[0, :2], [1.9401, 9.2098], atol=5e-5)
    np.testing.assert_allclose(x[0, 5:], [5.0, 5.0])
    np.testing.assert_allclose(x[1, 3:], [9.2104, 0.0, 5.3979, 5.3979], atol=5e-5)
    assert x.dtype == torch.float32


def test_depth_rule_of_a_depth_aware_model():
    x = model_input(np.array([[10, 90]]), DepthRule(floor=0.0, fold=4.0))
    np.testing.assert_allclose(x[0, 2:], [2 + math.log10(4), 2.0], atol=1e-6)
    np.testing.assert_allclose(model_input(np.array([[10, 90]]), DepthRule(0.0, 4.0), fold=1.0)[0, 2:], [2, 2], atol=1e-6)


def test_a_cell_without_counts_is_refused():
    with pytest.raises(SteerError, match="1 cells have no count"):
        model_input(np.array([[0, 0], [1, 2]]), DepthRule())


def test_mask_is_written_after_normalisation(model):
    counts = np.arange(1, 61)[None]
    x = model_input(counts, model.arch.depth)
    masked = x.clone()
    masked[:, 7] = MASK
    assert (masked[:, -2:] == x[:, -2:]).all()
    assert not torch.allclose(model(masked).expression, model(x).expression)


def test_embedding_unique_values_once_is_embedding_each(model):
    embedding = model.bert["gene_embedding"]
    x = torch.tensor([[0.0, 1.5, 0.0, -1.0], [1.5, -2.0, 3.25, 0.0]])
    each = torch.stack([embedding(value.reshape(1, 1))[0, 0] for value in x.flatten()]).reshape(2, 4, -1)
    torch.testing.assert_close(embedding(x), each)
