"""Properties of the edit, and of the objective that runs through the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.sae.model import TopKSAE
from steerpipe.steering import proximal
from steerpipe.steering.intervene import CachedCells, add_vector, apply, run_edit, scale_features, splice
from steerpipe.steering.objectives import ExpressionObjective, gene_weights

from ..conftest import random_model

GENES, VALID = 30, torch.tensor([0, 2, 3, 7, 8, 9, 15, 21, 22, 28])


@pytest.fixture(scope="module")
def world():
    model = random_model([f"g{i}" for i in range(GENES)], seed=1)
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(7, GENES + 2, generator=generator) * 4
    streams = model.stream(values, 0).numpy()
    sae = TopKSAE(32, 48, 6).initialise(3).requires_grad_(False)
    return CachedCells(model, 0, streams, VALID), sae, values


def theta_of(sae, seed=0, n=8, size=0.8):
    rng = np.random.default_rng(seed)
    theta = np.zeros(sae.n_features, np.float32)
    theta[rng.choice(sae.n_features, n, replace=False)] = rng.normal(0, size, n)
    return torch.from_numpy(theta)


def test_alpha_one_and_a_zero_vector_change_no_bit(world):
    cached, sae, values = world
    cells = np.arange(7)
    plain = run_edit(cached, cells, None)
    for edit in (scale_features(sae, torch.zeros(48)), add_vector(torch.zeros(32))):
        for a, b in zip(run_edit(cached, cells, edit), plain, strict=True):
            assert a.tobytes() == b.tobytes()
    whole = cached.model(values)
    np.testing.assert_allclose(plain.expression, whole.expression[:, VALID], atol=1e-5)
    np.testing.assert_allclose(plain.final, whole.final[:, VALID].mean(1), atol=1e-5)


def test_the_edit_is_the_definition(world):
    """x' = (alpha z) W_dec + b + (x - SAE(x)) at the valid genes, nothing anywhere else."""
    cached, sae, _ = world
    stream = torch.from_numpy(cached.streams)
    theta = theta_of(sae)
    x = stream[:, VALID]
    z = sae.encode(x).dense(48)
    wanted = ((1 + theta) * z) @ sae.W_dec + sae.b_dec + sae.b_pre + (x - sae(x))
    steered = apply(stream, VALID, scale_features(sae, theta)(x))
    torch.testing.assert_close(steered[:, VALID], wanted)
    rest = np.setdiff1d(np.arange(GENES + 2), VALID)
    assert torch.equal(steered[:, rest], stream[:, rest])


def test_pooled_embedding_is_linear_in_theta(world):
    cached, sae, _ = world
    cells = np.arange(7)

    def moved(theta):
        return run_edit(cached, cells, scale_features(sae, theta)).layer - run_edit(cached, cells, None).layer

    a, b = theta_of(sae, 1), theta_of(sae, 2)
    np.testing.assert_allclose(moved(2 * a - 3 * b), 2 * moved(a) - 3 * moved(b), atol=1e-5)


def test_splice_puts_the_reconstruction_in(world):
    cached, sae, _ = world
    x = torch.from_numpy(cached.streams[:, VALID])
    torch.testing.assert_close(x + splice(sae)(x), sae(x))


BOTH = pytest.mark.parametrize("match", ["population", "cell"])


def objective(world, mu=None, weights=None, batch_size=3, match="population"):
    cached, sae, _ = world
    rng = np.random.default_rng(5)
    mu = rng.normal(0, 1, len(VALID)) if mu is None else mu
    weights = rng.random(len(VALID)) * (rng.random(len(VALID)) < 0.7) if weights is None else weights
    cells = np.array([0, 1, 3, 4, 6])
    return ExpressionObjective(cached, cells, sae, mu, weights, batch_size=batch_size, match=match), mu, weights


@BOTH
def test_objective_is_its_definition_whatever_the_batch(world, match):
    cached, sae, _ = world
    theta = theta_of(sae)
    problem, mu, weights = objective(world, match=match)
    y = run_edit(cached, problem.cells, scale_features(sae, theta)).expression
    gaps = y - mu if match == "cell" else y.mean(0, keepdims=True) - mu
    wanted = (weights * gaps**2).sum(1).mean()
    gradients = []
    for batch_size in (1, 2, 3, 8):
        problem, _, _ = objective(world, batch_size=batch_size, match=match)
        value, gradient = problem.value_and_gradient(theta.numpy())
        assert value == problem.value(theta.numpy()) == pytest.approx(wanted, rel=1e-4)
        gradients.append(gradient)
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-3, atol=1e-5 * np.abs(gradients[0]).max())


@BOTH
def test_gradient_equals_finite_differences(world, match):
    _, sae, _ = world
    problem, *_ = objective(world, match=match)
    theta = theta_of(sae).numpy().astype(np.float64)
    value, gradient = problem.value_and_gradient(theta)
    assert not gradient[~problem.active()].any()
    step = 2e-2
    for f in np.argsort(-np.abs(gradient))[:8]:
        e = np.zeros_like(theta)
        e[f] = step
        slope = (problem.value(theta + e) - problem.value(theta - e)) / (2 * step)
        assert gradient[f] == pytest.approx(slope, rel=0.02, abs=1e-4 * value)


def test_passes_through_the_model(world, monkeypatch):
    """A value is one pass a batch in either form; a gradient of the mean over several batches is two."""
    cached, *_ = world
    calls = []
    forward = type(cached.model).forward_from
    monkeypatch.setattr(type(cached.model), "forward_from", lambda *a: calls.append(torch.is_grad_enabled()) or forward(*a))
    for match, batch_size, wanted in (
        ("cell", 3, [True, True]),
        ("population", 3, [False, False, True, True]),
        ("population", 5, [True]),
    ):
        problem, *_ = objective(world, batch_size=batch_size, match=match)
        calls.clear()
        problem.value_and_gradient(np.zeros(48))
        assert calls == wanted
        calls.clear()
        problem.value(np.zeros(48))
        assert calls == [False] * -(-5 // batch_size)


def test_cells_scattered_about_the_target_are_where_the_population_should_be(world):
    """Nothing to gain for the mean; the cell form would still move them together."""
    cached, *_ = world
    mu = run_edit(cached, np.array([0, 1, 3, 4, 6]), None).expression.mean(0)
    weights = np.ones(len(VALID), np.float32)
    value, gradient = objective(world, mu, weights)[0].value_and_gradient(np.zeros(48))
    rewarded, pull = objective(world, mu, weights, match="cell")[0].value_and_gradient(np.zeros(48))
    assert value < 1e-8 * rewarded
    assert np.abs(gradient).max() < 1e-4 * np.abs(pull).max()


def test_gene_weights():
    target, source = np.array([[3.0, 1.0, 2.0, 5.0]]), np.array([[1.0, 1.0, 2.5, 1.0]])
    seen = np.array([True, True, True, False])
    np.testing.assert_allclose(gene_weights(target, source, seen), np.array([2, 0, 0.5, 0]) / 2.5)
    np.testing.assert_allclose(gene_weights(target, source, seen, top_n=1), [1, 0, 0, 0])


def test_a_planted_recipe_is_found_through_the_model(world):
    """Cells steered by a sparse theta become the target; the fit must bring the objective down to nothing."""
    cached, sae, _ = world
    planted = np.zeros(48)
    on = np.flatnonzero(objective(world)[0].active())[[1, 5]]
    planted[on] = 0.9, -0.8
    cells = np.array([0])
    y = run_edit(cached, cells, scale_features(sae, torch.from_numpy(planted).float())).expression[0]
    problem = ExpressionObjective(cached, cells, sae, y, np.ones(len(VALID), np.float32))
    start, gradient = problem.value_and_gradient(np.zeros(48))
    lam = 2e-3 * np.abs(gradient).max()
    fit = proximal.solve(
        problem.value_and_gradient, np.zeros(48), lam, learnable=problem.active(), step=0.1, tolerance=0.0, max_steps=400
    )
    assert fit.loss < 0.02 * start
    assert (np.diff(fit.history) <= 0).all()
    assert fit.objective <= problem.value(planted) + lam * np.abs(planted).sum() + 0.01 * start
    assert np.count_nonzero(fit.theta) < problem.active().sum()
