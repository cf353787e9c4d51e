"""The sparse step against autograd through dense codes, and the top-k kernel against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from steerpipe.sae import select
from steerpipe.sae import step as module
from steerpipe.sae.model import TopKSAE
from steerpipe.sae.step import by_rows, set_gradients


@pytest.mark.parametrize(
    ("n_features", "k"), [(5, 1), (40, 40), (64, 5), (100, 7), (257, 32), (1024, 32), (5200, 32), (5201, 100)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_top_k_is_exact(n_features, k, ties):
    pre = torch.randn(37, n_features, generator=torch.Generator().manual_seed(n_features)).numpy()
    if ties:
        pre = np.maximum(np.round(pre), 0).astype(np.float32)
    values, indices = np.empty((37, k), np.float32), np.empty((37, k), np.int32)
    select.top_k(pre, k, values, indices)
    wanted = torch.from_numpy(pre).topk(k).values.numpy()
    np.testing.assert_array_equal(np.sort(values, axis=1)[:, ::-1], wanted)
    np.testing.assert_array_equal(np.take_along_axis(pre, indices, axis=1), values)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("guess", [-np.inf, 0.1, 1.5, 3.0, np.inf])
@pytest.mark.parametrize("ties", [False, True])
def test_batch_codes_are_exact_whatever_the_guess(guess, ties):
    generator = torch.Generator().manual_seed(0)
    sae, x = TopKSAE(12, 300, 8).initialise(1).requires_grad_(False), torch.randn(37, 12, generator=generator)
    if ties:
        x = torch.round(x)
        sae.W_enc.copy_(torch.round(3 * sae.W_enc))
    pre = sae.pre_activations(x).numpy()
    starts, values, features, cut = module.batch_codes(sae, x, guess)
    assert (starts[0], starts[-1], len(values), len(features)) == (0, 37 * 8, 37 * 8, 37 * 8)
    np.testing.assert_allclose(np.sort(values), np.sort(pre.ravel())[-37 * 8 :], atol=1e-5)
    assert cut == values.min()
    tokens = np.repeat(np.arange(37), np.diff(starts))
    np.testing.assert_allclose(pre[tokens, features], values, atol=1e-5)
    assert len(set(zip(tokens.tolist(), features.tolist(), strict=True))) == 37 * 8
    np.testing.assert_array_equal(module.batch_codes(sae, x, -1e9)[2], features)  # ties too


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_screening_in_int8_misses_next_to_nothing_and_returns_exact_codes(activation):
    """Recall on correlated tokens with a trained-like dictionary; most codes lie close to the cut, which is the hard case."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 64, generator=generator) * torch.logspace(0, -2, 64)
    x = torch.randn(3000, 64, generator=generator) @ mix
    sae = by_rows(TopKSAE(64, 512, 32, activation=activation).initialise(0)).requires_grad_(False)
    exact, where = module.top_codes(sae, x)
    screened, there = module.top_codes(sae, x, screen=True)
    found = sum(len(set(a) & set(b)) for a, b in zip(where.tolist(), there.tolist(), strict=True)) / where.size
    if activation == "identity":  # relu has ties at 0, of which any may be taken
        assert found > 0.9999
    np.testing.assert_allclose(np.sort(screened), np.sort(exact), atol=1e-3)
    pre = sae.pre_activations(x).numpy()
    np.testing.assert_allclose(np.take_along_axis(pre, there, axis=1), screened, atol=1e-4)


@pytest.mark.parametrize("path", ["cpu", "screened", "gathered"])
@pytest.mark.parametrize("selection", ["topk", "batchtopk"])
@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize(("d", "f", "k", "n"), [(12, 40, 5, 33), (128, 1024, 32, 200)])
def test_gradients_equal_autograd_through_dense_codes(activation, d, f, k, n, selection, path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    sae = by_rows(TopKSAE(d, f, k, activation=activation).initialise(1))
    with torch.no_grad():
        sae.b_enc.copy_(torch.randn(f, generator=generator) * 0.1)
        sae.b_dec.copy_(torch.randn(d, generator=generator) * 0.1)
        sae.W_enc.add_(torch.randn(d, f, generator=generator) * 0.05)
    x = torch.randn(n, d, generator=generator)
    pre = sae.pre_activations(x)
    if selection == "topk":
        top = pre.topk(k)
        dense = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    else:
        dense = pre * (pre >= pre.flatten().topk(n * k).values.min())
    error = dense @ sae.W_dec + sae.b_dec - x
    loss = error.square().sum() / (x - x.mean(0)).square().sum()
    wanted = torch.autograd.grad(loss, [sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec])
    monkeypatch.setattr(module, "fast_int8", lambda: path == "screened")
    if path == "gathered":  # what a GPU runs
        monkeypatch.setattr(module, "_sparse", module._gathered)
        monkeypatch.setattr(module, "GATHERED", 1000)
    step = set_gradients(sae, x, selection=selection)
    assert len(step.features) == len(step.values) == n * k
    assert step.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, gradient in zip(("W_enc", "b_enc", "W_dec", "b_dec"), wanted, strict=True):
        scale = float(gradient.abs().max())
        assert float((getattr(sae, name).grad - gradient).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("selection", ["topk", "batchtopk"])
def test_a_gpu_makes_no_dense_product_but_the_encoders(selection):
    d, f, n = 24, 512, 300
    sae, x = by_rows(TopKSAE(d, f, 8).initialise(0)), torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        module._gathered(sae, x, selection, -np.inf)
    print(f"FLOP of a step: {counter.get_total_flops():,}; of the encoder: {2 * n * d * f:,}")
    assert counter.get_total_flops() == 2 * n * d * f


@pytest.mark.parametrize("dense", [0, 10])
@pytest.mark.parametrize("stride", [1, 3])
def test_auxk_gradients_equal_autograd_on_the_tokens_it_looks_at(stride, dense, monkeypatch):
    monkeypatch.setattr(module, "AUXK_STRIDE", stride)
    monkeypatch.setattr(module, "AUXK_DENSE", dense)
    sae = by_rows(TopKSAE(24, 96, 5).initialise(0))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 24, generator=generator)
    dead = torch.rand(96, generator=generator) < 0.4
    error = set_gradients(sae, x).error
    before = {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}
    module.add_auxk_gradients(sae, x, error, dead, 0.1)
    found = {name: sae.get_parameter(name).grad - grad for name, grad in before.items()}
    sae.zero_grad(set_to_none=True)
    (0.1 * module.auxk_loss(sae, x[::stride], error[::stride], dead)).backward()
    for name, gradient in found.items():
        wanted = sae.get_parameter(name).grad
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        assert float((gradient - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max().clamp_min(1e-3)), name
    assert (found["W_enc"][:, dead].abs().sum(0) > 0).any()
