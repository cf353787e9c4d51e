"""Back-translation on a network whose drivers are known, and its parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerpipe.pipeline.program import HALVES
from steerpipe.pipeline.program_scores import ALIKE, CROSS, OWN, RANDOM, RECIPE, summary
from steerpipe.steering import proximal
from steerpipe.steering.lasso import LatentProblem
from steerpipe.steering.objectives import ProgramObjective
from steerpipe.steering.pooled import pooled_codes
from steerpipe.steering.program import score_weights, seen_half
from steerpipe.studies.recipe.explain import Rules, combine, explain, stability
from steerpipe.studies.recipe.perturb import KINDS, Perturbation, Perturber, high_counts

from . import planted_recipe as planted

FIT, HELD = np.arange(16), np.arange(16, planted.CELLS)
SOME = [Perturbation(int(g), kind) for g in range(planted.GENES) for kind in (0, 1)]


def perturber(counts, cached, rows):
    return Perturber(cached.model, counts[rows], planted.VALID, high_counts(counts[FIT]), 0, 8)


def recipe_of(k, *, strength=1.0, ratio=0.3):
    """Fit programme k; return counts, cells, theta, each fit cell's shift, and the weights of the genes held out, but one."""
    counts, cached, sae = planted.build(strength=strength)
    program, expression = planted.program(k), counts.toarray()[FIT].mean(0)
    seen = seen_half(program, planted.GENES, np.random.default_rng(1))
    weights = score_weights(program, expression, seen, np.random.default_rng(2))

    def held(touched):
        among = ~seen & (np.arange(planted.GENES) != touched)
        return score_weights(program, expression, among, np.random.default_rng(2))

    zbar, W = pooled_codes(cached, sae, FIT, batch_size=8)[0], sae.W_dec.numpy()
    none = np.zeros((len(FIT), planted.WIDTH))
    problem = ProgramObjective(cached, FIT, sae, weights, 0.0, 1.0, LatentProblem(zbar, W, none, none), 1.0)
    gradient = problem.value_and_gradient(np.zeros(planted.DRIVERS))[1]
    lam, every = ratio * np.abs(gradient).max(), np.ones(planted.DRIVERS, bool)
    fit = proximal.solve(
        problem.value_and_gradient, np.zeros(planted.DRIVERS), lam, learnable=every, step=0.01, tolerance=1e-3, max_steps=100
    )
    return counts, cached, fit.theta, (zbar * fit.theta) @ W, held


def shifts(counts, cached, rows):
    how = perturber(counts, cached, rows)
    base = how.embeddings(how.counts)
    found = np.stack([how.shifts(g, base) for g in range(planted.GENES)])
    return found.reshape(-1, *found.shape[2:]).astype(np.float64)


@pytest.mark.parametrize("k", [0, 3])
def test_the_planted_feature_and_the_gene_that_drives_it_come_first(k):
    counts, cached, theta, moved, held = recipe_of(k)
    assert np.abs(theta).argmax() == k
    assert theta[k] > 0
    D = shifts(counts, cached, FIT)
    rng = np.random.default_rng(5)
    random = rng.normal(size=(99, planted.WIDTH))
    random *= np.linalg.norm(moved.mean(0)) / np.linalg.norm(random, axis=1, keepdims=True)
    table, found = explain(SOME, D, moved, random, Rules(n_refits=40))
    first = table.iloc[0]
    assert (first["column"], first["kind"]) == (k, KINDS[1])
    assert first["named"]
    assert first["stability"] == 1
    assert found["explained"] > 0.9
    assert found["p"] <= 0.05
    assert found["dealt_p"] <= 0.05
    how = perturber(counts, cached, HELD)
    base = how.expression(how.counts)
    rises = {
        one: ((how.expression(how.changed([one])) - base) @ held(one.column)).mean()
        for one in SOME
        if one.column not in planted.members(k)
    }
    assert max(rises, key=rises.get) == (k, 1)


def test_a_programme_that_nothing_drives_has_no_recipe():
    theta = recipe_of(0, strength=0.0)[2]
    assert not theta.any()


def test_a_shift_that_no_candidate_makes_is_explained_no_better_than_random_ones():
    counts, cached, *_ = recipe_of(0)
    D = shifts(counts, cached, FIT)
    rng = np.random.default_rng(6)
    moved = np.zeros((len(FIT), planted.WIDTH)) + (np.arange(planted.WIDTH) == 9)
    table, found = explain(SOME, D, moved, rng.normal(size=(99, planted.WIDTH)), Rules(n_refits=10))
    assert not table["named"].any()
    assert found["explained"] < 0.1
    assert found["p"] > 0.5


def test_the_combination_is_the_nonnegative_one():
    from scipy.optimize import nnls

    rng = np.random.default_rng(0)
    D, planted_at = rng.normal(size=(30, 60)), np.array([3, 17])
    target = 2 * D[3] + 0.7 * D[17] - 0.0 * D[4]
    found = combine(D, target, 0.05)
    assert set(np.flatnonzero(found.coefficients)) == set(planted_at)
    np.testing.assert_allclose(found.coefficients[planted_at], [2, 0.7], atol=1e-6)
    assert found.explained == pytest.approx(1)
    noisy = target + 3 * rng.normal(size=60)
    every = combine(D, noisy, 1e-9)
    np.testing.assert_allclose(every.coefficients, nnls(D.T, noisy)[0], atol=1e-5)
    assert not combine(D, -D.sum(0) * 0, 0.1).coefficients.any()
    assert (combine(D, -D[5], 0.2).coefficients >= 0).all()


def test_stability_tells_what_one_cell_alone_carries():
    rng = np.random.default_rng(1)
    D = 0.05 * rng.normal(size=(8, 10, 40))
    D[0] += rng.normal(size=40)
    D[1, 0] += 10 * rng.normal(size=40)
    moved = D[0] + 0.001 * rng.normal(size=(10, 40))
    moved[0] += D[1, 0]
    share = stability(D, moved, Rules(n_refits=40))
    assert share[0] > 0.9
    assert 0.2 < share[1] < 0.8


def test_perturbed_counts_and_cells_that_nothing_changes():
    counts, cached, _ = planted.build()
    high = high_counts(counts)
    assert (high >= 1).all()
    np.testing.assert_array_equal(high, np.maximum(np.ceil(np.percentile(counts.toarray(), 99, axis=0)), 1))
    how = perturber(counts, cached, HELD)
    out = how.changed([Perturbation(2, 0), Perturbation(7, 1)])
    assert not out[:, 2].any()
    assert (out[:, 7] == np.maximum(how.counts[:, 7], how.high[7])).all()
    np.testing.assert_array_equal(np.delete(out, [2, 7], 1), np.delete(how.counts, [2, 7], 1))
    base = how.embeddings(how.counts)
    found = how.shifts(2, base)
    silent = how.counts[:, 2] == 0
    assert silent.any()
    assert not found[0][silent].any()
    whole = how.embeddings(how.changed([Perturbation(2, 0)])) - base
    np.testing.assert_allclose(found[0][~silent], whole[~silent], atol=1e-6)


def test_a_recipe_is_judged_as_it_would_be_fitted_in_its_null():
    """A recipe that is above random programmes only because it was fitted with more care is not beyond them."""
    rows = [(what, half, 0, rise, rise) for half in HALVES for what, rise in ((RECIPE, 0.9), (ALIKE, 0.4))]
    rows += [(what, half, i, 0.5 + i, 0.5 - 0.01 * i) for half in HALVES for i in range(39) for what in (OWN, CROSS)]
    rows += [(RANDOM, half, i, 0.02 * i, 0.02 * i) for half in HALVES for i in range(39)]
    scores = pd.DataFrame(rows, columns=["what", "half", "draw", "rise", "sds"]).assign(lo=0.0, hi=1.0)
    table = summary(scores).set_index(["what", "half"])
    found = table.loc[(RECIPE, "held")]
    assert found["rise"] == 0.9
    assert found["p_program"] == pytest.approx((1 + 11) / 40)
    assert found["p_features"] == pytest.approx(1 / 40)
    assert found["p_cross"] == 1
    assert table.loc[(RANDOM, "held"), "hi"] == pytest.approx(np.percentile(0.02 * np.arange(39), 97.5))
    assert table["p_program"].notna().sum() == len(HALVES)
