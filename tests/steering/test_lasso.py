"""The latent solver against scikit-learn, the optimality conditions, its own certificate and planted recipes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from steerpipe.steering import adam
from steerpipe.steering.lasso import LatentProblem


def make(n=20, f=60, d=12, seed=0, learnable=None):
    rng = np.random.default_rng(seed)
    zbar = rng.exponential(1.0, (n, f)) * (rng.random((n, f)) < 0.5)
    W = rng.standard_normal((f, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    embeddings, mu = rng.standard_normal((n, d)), rng.standard_normal(d) * 2
    return LatentProblem(zbar, W, embeddings, mu, learnable), zbar, W, embeddings, mu


def design(zbar, W, embeddings, mu):
    n, d = embeddings.shape
    X = (zbar[:, None, :] * W.T[None]).reshape(n * d, -1) / np.sqrt(n)
    return X, ((mu - embeddings) / np.sqrt(n)).ravel()


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
def test_equals_scikit_learn(ratio):
    problem, *parts = make()
    X, y = design(*parts)
    fit = problem.solve(ratio * problem.lam_max)
    theirs = Lasso(alpha=fit.lam / (2 * len(y)), fit_intercept=False, tol=1e-12, max_iter=1_000_000).fit(X, y).coef_
    np.testing.assert_allclose(fit.theta, theirs, atol=1e-5)
    objective = ((y - X @ fit.theta) ** 2).sum() + fit.lam * np.abs(fit.theta).sum()
    assert fit.objective == pytest.approx(objective, rel=1e-10)
    assert problem.loss(fit.theta) == pytest.approx(((y - X @ fit.theta) ** 2).sum(), rel=1e-10)


def test_quadratic_and_linear_terms_are_those_of_the_method():
    problem, zbar, W, embeddings, mu = make()
    n = len(zbar)
    H = (W @ W.T) * (zbar.T @ zbar / n)
    b = (zbar * ((mu - embeddings) @ W.T)).sum(0) / n
    np.testing.assert_allclose(problem.b, b)
    theta = np.random.default_rng(1).standard_normal(len(W))
    base = ((mu - embeddings) ** 2).sum() / n
    assert problem.loss(theta) == pytest.approx(base - 2 * b @ theta + theta @ H @ theta)


def test_lam_max_is_the_edge():
    problem, *_ = make()
    assert not problem.solve(problem.lam_max * 1.0001).theta.any()
    assert problem.solve(problem.lam_max * 0.999).theta.any()


def test_optimality_conditions_and_gap_on_a_large_problem():
    problem, zbar, W, embeddings, mu = make(n=66, f=2000, d=64, seed=3)
    fits = problem.path(problem.lam_max * np.geomspace(1, 0.01, 30))
    for fit in fits:
        residual = mu - embeddings - (zbar * fit.theta) @ W
        gradient = -2 * (zbar * (residual @ W.T)).sum(0) / len(zbar)
        on = fit.theta != 0
        assert np.abs(gradient[on] + fit.lam * np.sign(fit.theta[on])).max(initial=0) < 1e-3 * fit.lam
        assert np.abs(gradient[~on]).max() <= fit.lam * (1 + 1e-3)
        assert 0 <= fit.gap <= 1e-8
    assert fits[-1].objective < fits[0].objective


def test_the_gap_bounds_the_distance_from_the_optimum():
    problem, *_ = make()
    lam = 0.05 * problem.lam_max
    best = problem.solve(lam, tol=1e-13).objective
    for tol in (1e-1, 1e-2, 1e-4):
        rough = problem.solve(lam, tol=tol)
        assert rough.objective - best <= rough.gap * rough.objective + 1e-12


def test_a_warm_start_changes_nothing_but_time():
    problem, *_ = make(f=200, d=20, seed=2)
    path = problem.path(problem.lam_max * np.geomspace(1, 0.02, 12))
    cold = problem.solve(path[-1].lam)
    np.testing.assert_allclose(path[-1].theta, cold.theta, atol=1e-5)


def test_planted_recipe_is_recovered():
    rng = np.random.default_rng(0)
    n, f, d = 40, 80, 100
    zbar = rng.exponential(1.0, (n, f))
    W = np.linalg.qr(rng.standard_normal((d, f)))[0].T  # orthogonal rows: the sparse answer is the only one
    theta = np.zeros(f)
    theta[[3, 11, 42, 60]] = 1.5, -0.7, 2.0, -1.0
    mu = rng.standard_normal(d)
    problem = LatentProblem(zbar, W, mu - (zbar * theta) @ W, mu)
    fit = problem.solve(1e-4 * problem.lam_max)
    assert set(np.flatnonzero(np.abs(fit.theta) > 0.01)) == {3, 11, 42, 60}
    np.testing.assert_allclose(fit.theta, theta, atol=1e-2)


def test_only_learnable_and_firing_features_move():
    learnable = np.arange(60) % 2 == 0
    problem, *_ = make(learnable=learnable)
    problem.z[:, 4] = 0
    silent = LatentProblem(problem.z, problem.W, -problem.gap_vectors, np.zeros(12), learnable)
    theta = silent.solve(0.01 * silent.lam_max).theta
    assert not theta[~learnable].any()
    assert theta[4] == 0
    assert theta.any()


def test_the_gram_rows_and_the_explicit_residual_tell_the_same():
    """The solver's loss and gap come from rows of the Gram matrix; here from the residual itself."""
    problem, *_ = make(n=30, f=300, d=24, seed=4, learnable=np.arange(300) % 3 > 0)
    for fit in problem.path(problem.lam_max * np.geomspace(1, 0.02, 6)):
        objective, gap = problem.certificate(fit.theta, fit.lam)
        assert objective == pytest.approx(fit.objective, rel=1e-9)
        assert gap == pytest.approx(fit.gap, abs=1e-9)
    assert problem._n_rows < 200  # and few of the 200 rows were made


def test_the_refit_is_least_squares_on_the_support():
    problem, *parts = make()
    X, y = design(*parts)
    theta = problem.solve(0.2 * problem.lam_max).theta
    on = theta != 0
    refit = problem.refit(theta)
    np.testing.assert_allclose(refit[on], np.linalg.lstsq(X[:, on], y, rcond=None)[0], atol=1e-6)
    assert not refit[~on].any()
    assert problem.loss(refit) < problem.loss(theta)


def test_the_refit_of_a_planted_recipe_has_no_shrinkage():
    rng = np.random.default_rng(0)
    n, f, d = 40, 80, 100
    zbar, W = rng.exponential(1.0, (n, f)), np.linalg.qr(rng.standard_normal((d, f)))[0].T
    theta = np.zeros(f)
    theta[[3, 11, 42, 60]] = 1.5, -0.7, 2.0, -1.0
    mu = rng.standard_normal(d)
    problem = LatentProblem(zbar, W, mu - (zbar * theta) @ W, mu)
    fit = problem.solve(0.2 * problem.lam_max)
    assert np.abs(fit.theta - theta).max() > 0.1
    np.testing.assert_allclose(problem.refit(fit.theta), theta, atol=1e-8)


def test_adam_ends_above_the_optimum_with_many_small_values():
    problem, *_ = make(n=30, f=300, d=24, seed=4)
    exact = problem.solve(0.1 * problem.lam_max)
    theirs = adam.solve(problem, exact.lam)
    assert exact.gap <= 1e-8
    assert theirs.objective > exact.objective * (1 + 1e-6)
    assert theirs.gap >= theirs.objective / exact.objective - 1 - 1e-6  # what its own certificate says
    assert np.abs(theirs.theta[theirs.theta != 0]).min() >= adam.RESET
    assert (theirs.theta != 0).sum() > 2 * (exact.theta != 0).sum()
    longer = adam.solve(problem, exact.lam, steps=3000, lr=0.003)
    assert longer.objective < theirs.objective  # the same problem: patience brings it closer
    assert longer.objective == pytest.approx(exact.objective, rel=0.02)
