"""A programme's score, its random likes, and the objective that raises it without leaving its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.sae.model import TopKSAE
from steerpipe.steering import proximal
from steerpipe.steering.intervene import CachedCells, recipe_edit, run_edit
from steerpipe.steering.lasso import LatentProblem
from steerpipe.steering.objectives import LIMIT, ProgramObjective
from steerpipe.steering.pooled import pooled_codes
from steerpipe.steering.program import BINS, CONTROLS, Program, expression_bins, random_program, score_weights, seen_half

from ..conftest import random_model

G = 400
EXPRESSION = np.random.default_rng(0).lognormal(0, 2, G)
PROGRAM = Program(np.arange(0, 40, 5), np.array([101, 203, 333]))
EVERY = np.ones(G, bool)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_score_is_its_definition():
    """Gene by gene: up less the mean of its drawn genes, down likewise; here a bin has fewer than CONTROLS genes left."""
    bins, y = expression_bins(EXPRESSION), rng(1).normal(size=(7, G))
    assert np.bincount(bins).tolist() == [G // BINS] * BINS
    assert (np.diff(EXPRESSION[np.argsort(bins, kind="stable")].reshape(BINS, -1).min(1)) > 0).all()
    others = np.setdiff1d(np.arange(G), PROGRAM.genes)

    def above(gene):
        same = others[bins[others] == bins[gene]]
        assert len(same) <= CONTROLS
        return y[:, gene] - y[:, same].mean(1)

    wanted = np.mean([above(g) for g in PROGRAM.up], 0) - np.mean([above(g) for g in PROGRAM.down], 0)
    np.testing.assert_allclose(y @ score_weights(PROGRAM, EXPRESSION, EVERY, rng()), wanted, atol=1e-12)


def test_what_moves_all_genes_alike_moves_no_score_and_half_of_the_genes_know_nothing_of_the_others():
    seen = seen_half(PROGRAM, G, rng(2))
    assert seen.sum() == pytest.approx(G / 2, abs=2)
    for genes in PROGRAM:
        assert seen[genes].sum() == (len(genes) + 1) // 2
    for half in (seen, ~seen):
        weights = score_weights(PROGRAM, EXPRESSION, half, rng())
        assert weights.sum() == pytest.approx(0, abs=1e-12)
        assert not weights[~half].any()
        assert (weights[PROGRAM.up[half[PROGRAM.up]]] > 0).all()
        assert (weights[PROGRAM.down[half[PROGRAM.down]]] < 0).all()


def test_of_a_large_bin_so_many_genes_are_drawn():
    expression = np.arange(2000.0)
    weights = score_weights(Program(np.array([5]), np.zeros(0, np.int64)), expression, np.ones(2000, bool), rng())
    drawn = np.flatnonzero(weights < 0)
    assert len(drawn) == CONTROLS
    assert drawn.max() < 200


def test_a_random_programme_is_as_large_as_much_expressed_and_another():
    bins = expression_bins(EXPRESSION)
    draws = [random_program(PROGRAM, EXPRESSION, rng(i)) for i in range(5)]
    for one in draws:
        assert (bins[one.genes] == bins[PROGRAM.genes]).all()
        assert len(np.unique(one.genes)) == len(PROGRAM.genes)
        assert not set(one.genes) & set(PROGRAM.genes)
    assert len({tuple(one.genes) for one in draws}) == 5


@pytest.fixture(scope="module")
def planted():
    model = random_model([f"g{i}" for i in range(30)], seed=1)
    valid = torch.arange(0, 30, 2)
    values = torch.rand(4, 32, generator=torch.Generator().manual_seed(2)) * 4
    cached = CachedCells(model, 0, model.stream(values, 0).numpy(), valid)
    sae = TopKSAE(32, 16, 6).initialise(3).requires_grad_(False)
    return cached, sae


def posed(cached, sae, weights, limit, match="population"):
    cells = np.arange(len(cached))
    zbar = pooled_codes(cached, sae, cells, batch_size=4)[0]
    none = np.zeros((len(cells), 32))
    reach = LatentProblem(zbar, sae.W_dec.numpy(), none, none, match=match)
    y = run_edit(cached, cells, None).expression @ weights
    return ProgramObjective(cached, cells, sae, weights, float(y.mean()), float(y.std()), reach, limit, match=match), y, zbar


@pytest.mark.parametrize("match", ["population", "cell"])
def test_the_objective_is_the_rise_in_sds_and_what_leaving_the_limit_costs(planted, match):
    cached, sae = planted
    weights = rng(4).normal(size=15)
    problem, y, zbar = posed(cached, sae, weights, 0.3, match)
    assert problem.value(np.zeros(16)) == pytest.approx(0, abs=1e-4)
    for size in (0.02, 2.0):
        theta = size * rng(5).normal(size=16)
        after = run_edit(cached, np.arange(4), recipe_edit(sae, torch.from_numpy(theta).float()))
        moved = (zbar * theta) @ sae.W_dec.numpy()
        shift = np.linalg.norm(moved.mean(0)) if match == "population" else np.sqrt(np.square(moved).sum(1).mean())
        assert (shift > 0.3) == (size > 1)
        wanted = -((after.expression @ weights).mean() - y.mean()) / y.std() + LIMIT * max(0, shift / 0.3 - 1) ** 2
        assert problem.value(theta) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_planted_feature_is_found_and_the_limit_is_nearly_kept(planted):
    """Weights by which, of ten features, one moves the score and the others' edits cancel: that one must carry the recipe."""
    cached, sae = planted
    cells = np.arange(4)
    zbar, fires = (codes.mean(0) for codes in pooled_codes(cached, sae, cells, batch_size=4))
    some = np.argsort(-fires)[:10]

    def expression(theta):
        return run_edit(cached, cells, recipe_edit(sae, torch.from_numpy(theta).float())).expression.mean(0)

    size = 0.05 * np.eye(16)
    effects = np.stack([(expression(size[f]) - expression(-size[f])) / 0.1 for f in some])
    for at in (0, 3):
        weights = np.linalg.pinv(effects)[:, at]
        limit = 0.1 * float(np.linalg.norm(zbar[some[at]] * sae.W_dec[some[at]].numpy()))
        problem, _, _ = posed(cached, sae, weights, limit)
        slope = np.abs(problem.value_and_gradient(np.zeros(16))[1]).max()
        fit = proximal.solve(
            problem.value_and_gradient, np.zeros(16), 0.3 * slope,
            learnable=np.isin(np.arange(16), some), step=0.05 / slope, tolerance=1e-2 * slope, max_steps=60,
            cheap=problem.cheap,
        )  # fmt: skip
        assert np.abs(fit.theta).argmax() == some[at]
        assert 0.08 < fit.theta[some[at]] < 0.15
        assert np.abs(np.delete(fit.theta, some[at])).max() < 0.02
        assert np.sqrt(problem.reach.loss(fit.theta)) < 1.15 * limit
