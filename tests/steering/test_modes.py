"""Modes and tokens of the edit, and every objective's gradient, on a model with random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from steerpipe.errors import SteerError
from steerpipe.sae.model import Codes, TopKSAE
from steerpipe.steering import proximal
from steerpipe.steering.intervene import MODES, CachedCells, above_floor, apply, clamp_features, recipe_edit, run_edit
from steerpipe.steering.lasso import LatentProblem
from steerpipe.steering.objectives import ExpressionObjective, LatentFinalObjective, MixedObjective, ProgramObjective
from steerpipe.steering.pooled import pooled_codes

from ..conftest import random_model

GENES, VALID = 30, torch.tensor([0, 2, 3, 7, 8, 9, 15, 21, 22, 28])
BOTH = pytest.mark.parametrize("match", ["population", "cell"])
TOKENS = {"genes": None, "all": torch.arange(GENES + 2), "list": torch.tensor([3, 8, 28])}
F, D, CELLS = 48, 32, np.arange(6)


@pytest.fixture(scope="module")
def world():
    model = random_model([f"g{i}" for i in range(GENES)], seed=1)
    values = torch.rand(6, GENES + 2, generator=torch.Generator().manual_seed(2)) * 4
    sae = TopKSAE(D, F, 6).initialise(3).requires_grad_(False)
    return CachedCells(model, 0, model.stream(values, 0).numpy(), VALID), sae


def theta_of(seed=0, n=8, size=0.6):
    rng = np.random.default_rng(seed)
    theta = np.zeros(F)
    theta[rng.choice(F, n, replace=False)] = rng.normal(0, size, n)
    return theta


def edit(sae, theta, mode):
    return recipe_edit(sae, torch.from_numpy(theta).float(), mode)


def zbar_of(cached, sae, mode):
    share = float(cached.pooled.sum()) / len(VALID)
    return (
        pooled_codes(cached, sae, np.arange(len(cached)), batch_size=4)[0]
        if mode == "multiply"
        else np.full((len(CELLS), F), share)
    )


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("mode", MODES)
def test_a_recipe_of_zeros_changes_no_bit(world, mode, tokens):
    cached, sae = replace(world[0], steered=TOKENS[tokens]), world[1]
    for a, b in zip(run_edit(cached, CELLS, edit(sae, np.zeros(F), mode)), run_edit(cached, CELLS, None), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("mode", MODES)
def test_the_edit_is_the_definition_and_leaves_other_tokens_alone(world, mode, tokens):
    cached, sae = replace(world[0], steered=TOKENS[tokens]), world[1]
    theta, stream = theta_of(), torch.from_numpy(cached.streams)
    t, where = torch.from_numpy(theta).float(), cached.tokens
    x = stream[:, where]
    z = sae.encode(x).dense(F)
    edited = {"multiply": (1 + t) * z, "add": z + t, "clamp": torch.where(t != 0, t, z)}[mode]
    wanted = edited @ sae.W_dec + sae.b_dec + sae.b_pre + (x - sae(x))
    steered = apply(stream, where, edit(sae, theta, mode)(x))
    torch.testing.assert_close(steered[:, where], wanted)
    rest = np.setdiff1d(np.arange(GENES + 2), where)
    assert torch.equal(steered[:, rest], stream[:, rest])


def test_clamping_to_zero_ablates(world):
    cached, sae = world
    x = torch.from_numpy(cached.streams)[:, VALID]
    clamped = torch.arange(F) % 3 == 0
    ablated = x + clamp_features(sae, torch.zeros(F), clamped)(x)
    scaled = x + recipe_edit(sae, -clamped.float())(x)
    torch.testing.assert_close(ablated, scaled)


@BOTH
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("mode", ["multiply", "add"])
def test_the_latent_lasso_is_the_embedding_that_the_model_shows(world, mode, tokens, match):
    """Linear in theta, whichever tokens: zbar theta W_dec is what moves, so the lasso's loss is the real one."""
    cached, sae = replace(world[0], steered=TOKENS[tokens]), world[1]
    plain, mu = run_edit(cached, CELLS, None).layer, np.random.default_rng(1).normal(size=D)
    problem = LatentProblem(zbar_of(cached, sae, mode), sae.W_dec.numpy(), plain, mu, match=match)
    for theta in (theta_of(1), 2 * theta_of(1) - 3 * theta_of(2)):
        steered = run_edit(cached, CELLS, edit(sae, theta, mode)).layer
        form = np.asarray if match == "cell" else lambda rows: rows.mean(0, keepdims=True)
        np.testing.assert_allclose(form(steered - plain), problem.shift(theta), atol=1e-5)
        assert problem.loss(theta) == pytest.approx(np.square(form(steered) - mu).sum(1).mean(), rel=1e-4)


def objective_of(name, cached, sae, mode, batch_size=4, **options):
    rng = np.random.default_rng(5)
    how = {"mode": mode, "batch_size": batch_size, **options}
    weights = (rng.random(len(VALID)) * (rng.random(len(VALID)) < 0.7)).astype(np.float32)
    expression = ExpressionObjective(cached, CELLS, sae, rng.normal(0, 1, len(VALID)), weights, **how)
    mu = rng.normal(0, 1, D)
    plain = run_edit(cached, CELLS, None).layer
    latent = LatentProblem(zbar_of(cached, sae, mode), sae.W_dec.numpy(), plain, mu, match=options.get("match", "population"))
    if name == "latent_final":
        return LatentFinalObjective(cached, CELLS, sae, mu, **how)
    if name == "program":
        score, none = weights - weights.mean() * (weights > 0), np.zeros_like(plain)
        reach = LatentProblem(
            zbar_of(cached, sae, mode), sae.W_dec.numpy(), none, none, match=options.get("match", "population")
        )
        shift = np.sqrt(reach.loss(theta_of(3)))
        limit = 0.6 * shift  # theta_of(3) is beyond it
        return ProgramObjective(
            cached,
            CELLS,
            sae,
            score,
            float((run_edit(cached, CELLS, None).expression @ score).mean()),
            0.5,
            reach,
            limit,
            **how,
        )
    return {"latent": latent, "expression": expression, "mixed": MixedObjective(latent, expression, 0.3)}[name]


@BOTH
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("mode", ["multiply", "add"])
@pytest.mark.parametrize("name", ["latent", "latent_final", "expression", "mixed", "program"])
def test_the_gradient_equals_finite_differences(world, name, mode, tokens, match):
    cached, sae = replace(world[0], steered=TOKENS[tokens]), world[1]
    problem, theta = objective_of(name, cached, sae, mode, match=match), theta_of(3)
    value, gradient = problem.value_and_gradient(theta)
    assert problem.value(theta) == pytest.approx(value, rel=1e-6)
    rng = np.random.default_rng(4)
    for direction in (
        gradient / np.linalg.norm(gradient),
        rng.normal(size=F) / np.sqrt(F),
        np.eye(F)[np.abs(gradient).argmax()],
    ):
        h = 1e-2
        slope = (problem.value(theta + h * direction) - problem.value(theta - h * direction)) / (2 * h)
        assert float(gradient @ direction) == pytest.approx(slope, rel=0.02, abs=2e-4 * abs(value))


@BOTH
def test_latent_final_is_its_definition_whatever_the_batch(world, match):
    cached, sae = world
    theta, mu = theta_of(6), np.ones(D)
    final = run_edit(cached, CELLS, edit(sae, theta, "multiply")).final
    wanted = np.linalg.norm(final - mu, axis=1).mean() if match == "cell" else np.square(final.mean(0) - mu).sum()
    for batch_size in (1, 4, 8):
        problem = LatentFinalObjective(cached, CELLS, sae, mu, batch_size=batch_size, match=match)
        assert problem.value(theta) == pytest.approx(wanted, rel=1e-5)


@BOTH
def test_mixed_is_one_unsteered_and_each_of_its_terms_at_the_ends(world, match):
    cached, sae = world
    latent, expression = (objective_of(name, cached, sae, "multiply", match=match) for name in ("latent", "expression"))
    theta, zero = theta_of(7), np.zeros(F)
    for weight in (0.0, 0.3, 1.0):
        mixed = MixedObjective(latent, expression, weight)
        assert mixed.value(zero) == pytest.approx(1.0, rel=1e-5)
        terms = latent.value(theta) / latent.value(zero), expression.value(theta) / expression.value(zero)
        assert mixed.value(theta) == pytest.approx(weight * terms[0] + (1 - weight) * terms[1], rel=1e-5)
    before = expression.n_evaluations
    MixedObjective(latent, expression, 1.0).value_and_gradient(theta)
    assert expression.n_evaluations == before  # a term of weight 0 costs nothing


def test_mixed_of_weight_one_is_the_exact_lasso(world):
    cached, sae = world
    latent = objective_of("latent", cached, sae, "multiply")
    mixed = MixedObjective(latent, objective_of("expression", cached, sae, "multiply"), 1.0)
    scale, ratio = latent.value(np.zeros(F)), 0.1
    exact = latent.solve(ratio * latent.lam_max)
    lam = ratio * latent.lam_max / scale
    fit = proximal.solve(
        mixed.value_and_gradient, np.zeros(F), lam, learnable=latent.free, step=0.1, tolerance=1e-7, max_steps=3000
    )
    np.testing.assert_allclose(fit.theta, exact.theta, atol=1e-3)
    assert fit.objective * scale == pytest.approx(exact.objective, rel=1e-6)


def test_mixed_has_one_match(world):
    latent, expression = (
        objective_of(name, *world, "multiply", match=match)
        for name, match in (("latent", "cell"), ("expression", "population"))
    )
    with pytest.raises(ValueError, match="'cell' of the latent term"):
        MixedObjective(latent, expression, 0.5)


def test_a_floor_leaves_the_codes_below_it_alone(world):
    cached, sae = world
    x = torch.from_numpy(cached.streams)[:, VALID]
    z = sae.encode(x).dense(F)
    floor = z.abs().amax((0, 1)) * torch.linspace(0, 1.2, F)  # from none of a feature's codes to all of them
    t = torch.from_numpy(theta_of(n=F)).float()
    wanted = torch.where(z.abs() >= floor, t * z, 0.0) @ sae.W_dec
    given = recipe_edit(sae, t, "multiply", floor)(x)
    torch.testing.assert_close(given, wanted)
    assert not torch.allclose(given, recipe_edit(sae, t)(x), atol=1e-3)
    torch.testing.assert_close(recipe_edit(sae, t, "multiply", torch.zeros(F))(x), recipe_edit(sae, t)(x))
    assert not recipe_edit(sae, t, "multiply", torch.full((F,), torch.inf))(x).any()


def test_a_floor_is_on_the_size_of_a_code():
    codes = Codes(torch.tensor([[-2.0, 0.5, -0.5, 2.0]]), torch.tensor([[0, 1, 0, 1]]))
    assert above_floor(codes, torch.tensor([1.0, 0.5])).values.tolist() == [[-2.0, 0.5, 0.0, 2.0]]


@pytest.mark.parametrize("mode", ["add", "clamp"])
def test_a_floor_goes_with_multiply_alone(world, mode):
    floor = torch.ones(F)
    with pytest.raises(SteerError, match="goes with"):
        recipe_edit(world[1], torch.zeros(F), mode, floor)
    if mode == "add":
        with pytest.raises(SteerError, match="goes with"):
            objective_of("expression", *world, mode, floor=floor)


@BOTH
@pytest.mark.parametrize("tokens", TOKENS)
def test_with_a_floor_lasso_and_objective_are_what_the_model_shows(world, match, tokens):
    cached, sae = replace(world[0], steered=TOKENS[tokens]), world[1]
    floor = torch.full((F,), float(np.median(sae.encode(torch.from_numpy(cached.streams)).values.abs())))
    zbar, size = pooled_codes(cached, sae, np.arange(len(cached)), batch_size=4, floor=floor)
    assert 0 < size.sum() < 0.9 * pooled_codes(cached, sae, np.arange(len(cached)), batch_size=4)[1].sum()
    theta, mu = theta_of(2), np.random.default_rng(1).normal(size=len(VALID))
    plain = run_edit(cached, CELLS, None)
    steered = run_edit(cached, CELLS, recipe_edit(sae, torch.from_numpy(theta).float(), "multiply", floor))
    np.testing.assert_allclose(steered.layer - plain.layer, (zbar * theta) @ sae.W_dec.numpy(), atol=1e-5)
    weights = np.ones(len(VALID), np.float32)
    problem = ExpressionObjective(cached, CELLS, sae, mu, weights, batch_size=4, match=match, floor=floor)
    y = steered.expression
    wanted = np.square(y - mu).sum(1).mean() if match == "cell" else np.square(y.mean(0) - mu).sum()
    assert problem.value(theta) == pytest.approx(wanted, rel=1e-4)
    assert set(np.flatnonzero(problem.active())) >= set(np.flatnonzero(size.sum(0)))


def test_an_unknown_match_is_refused(world):
    with pytest.raises(SteerError, match="population, cell"):
        objective_of("expression", *world, "multiply", match="centroid")


def test_a_mode_without_a_zero_is_not_fitted(world):
    with pytest.raises(ValueError, match="no gradient"):
        objective_of("expression", *world, "clamp")


@pytest.mark.parametrize("name", ["latent_final", "expression"])
def test_a_planted_recipe_is_recovered_through_the_model(name):
    """Every feature has its own direction, targets are what steering by a sparse theta gives: theta itself must be found."""
    model = random_model([f"g{i}" for i in range(GENES)], seed=1)
    values = torch.rand(1, GENES + 2, generator=torch.Generator().manual_seed(2)) * 4
    cached = CachedCells(model, 0, model.stream(values, 0).numpy(), VALID)
    sae = TopKSAE(D, 16, 6).initialise(3).requires_grad_(False)
    one = np.array([0])
    fires = pooled_codes(cached, sae, np.arange(len(cached)), batch_size=1)[1][0]
    planted = np.zeros(16)
    planted[np.argsort(-fires)[[0, 2]]] = 0.8, -0.7
    state = run_edit(cached, one, edit(sae, planted, "multiply"))
    if name == "expression":
        problem = ExpressionObjective(cached, one, sae, state.expression[0], np.ones(len(VALID), np.float32))
        lam = 1e-3
    else:
        problem, lam = LatentFinalObjective(cached, one, sae, state.final[0]), 0.05
    start, slope = problem.value_and_gradient(np.zeros(16))
    fit = proximal.solve(
        problem.value_and_gradient,
        np.zeros(16),
        lam * np.abs(slope).max(),
        learnable=fires > 0,
        step=0.05,
        tolerance=1e-3 * np.abs(slope).max(),
        max_steps=200,
    )
    assert fit.loss < 0.1 * start
    assert (np.diff(fit.history) <= 0).all()
    big = np.abs(fit.theta) > 0.2
    assert set(np.flatnonzero(big)) == set(np.flatnonzero(planted))
    np.testing.assert_allclose(fit.theta[big], planted[big], atol=0.15)
