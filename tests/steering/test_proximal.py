"""The proximal solver against scikit-learn on a quadratic, and its promises: monotone, exact zeros, an honest norm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import Lasso

from steerpipe.steering.bounds import limits
from steerpipe.steering.lasso import LatentProblem
from steerpipe.steering.proximal import prox, prox_gradient_norm, soft_threshold, solve


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 20)), rng.standard_normal(50)
    y += X[:, :3] @ [2.0, -1.0, 0.5]

    def value_and_gradient(theta):
        r = X @ theta - y
        return float(r @ r) / 50, 2 * X.T @ r / 50

    return X, y, value_and_gradient


def run(oracle, lam, **options):
    options = {"learnable": np.ones(20, bool), "step": 1.0, "tolerance": 1e-9, "max_steps": 2000} | options
    return solve(oracle, np.zeros(20), lam, **options)


def test_equals_scikit_learn_with_exact_zeros(problem):
    X, y, oracle = problem
    fit = run(oracle, 0.3)
    theirs = Lasso(alpha=0.15, fit_intercept=False, tol=1e-12).fit(X, y).coef_
    np.testing.assert_allclose(fit.theta, theirs, atol=1e-6)
    assert ((fit.theta == 0) == (np.abs(theirs) < 1e-12)).all()
    assert fit.converged


@pytest.mark.parametrize("step", [1e-4, 1.0, 1e4])
def test_monotone_from_any_step_size(problem, step):
    fit = run(problem[2], 0.1, step=step)
    assert (np.diff(fit.history) <= 1e-15).all()
    assert fit.converged


def test_stops_at_the_tolerance_and_reports_the_norm(problem):
    oracle = problem[2]
    fit = run(oracle, 0.1, tolerance=1e-2)
    assert fit.prox_gradient <= 1e-2
    norm = prox_gradient_norm(fit.theta, oracle(fit.theta)[1], 0.1, np.ones(20, bool))
    assert fit.prox_gradient == pytest.approx(norm)
    short = run(oracle, 0.1, tolerance=0.0, max_steps=2)
    assert (short.n_steps, short.converged) == (2, False)


def test_features_that_may_not_move_stay(problem):
    learnable = np.arange(20) >= 2
    fit = run(problem[2], 0.01, learnable=learnable)
    assert not fit.theta[:2].any()
    assert fit.theta[2:].any()


def test_soft_threshold():
    np.testing.assert_allclose(soft_threshold(np.array([-3.0, -0.5, 0.0, 0.5, 2.0]), 1.0), [-2, 0, 0, 0, 1])


def test_prox_is_the_minimum_of_its_definition():
    grid = np.linspace(-0.5, 0.8, 13_001)
    for x in (-3.0, -0.9, -0.1, 0.6, 1.5, 4.0):
        best = grid[((grid - x) ** 2 / 2 + 0.4 * np.abs(grid)).argmin()]
        assert prox(np.array([x]), 0.4, (-0.5, 0.8))[0] == pytest.approx(best, abs=2e-4)


@pytest.mark.parametrize("bounds", [(0.0, None), (-0.2, 0.15), (None, 0.1)])
def test_within_bounds_equals_the_exact_lasso(bounds):
    rng = np.random.default_rng(1)
    parts = rng.exponential(1.0, (1, 20)), rng.standard_normal((20, 30)), np.zeros((1, 30)), 3 * rng.standard_normal(30)
    exact = LatentProblem(*parts, bounds=bounds)
    lam = 0.05 * exact.lam_max
    wanted = exact.solve(lam, tol=1e-12)
    start, free = rng.standard_normal(20), LatentProblem(*parts)
    known = free.value_and_gradient(start)  # of a start out of bounds: not to be believed
    fit = solve(
        free.value_and_gradient,
        start,
        lam,
        learnable=np.ones(20, bool),
        step=0.01,
        tolerance=1e-5,
        max_steps=5000,
        known=known,
        bounds=bounds,
    )
    np.testing.assert_allclose(fit.theta, wanted.theta, atol=1e-5)
    assert fit.objective == pytest.approx(wanted.objective, rel=1e-9)
    assert fit.converged
    begin = np.clip(start, *limits(bounds))
    assert fit.history[0] == pytest.approx(free.value(begin) + lam * np.abs(begin).sum())
    assert (np.diff(fit.history) <= 1e-9).all()
    assert np.isin(fit.theta, [x for x in bounds if x]).any() or bounds[0] == 0
    assert (fit.theta >= (-np.inf if bounds[0] is None else bounds[0])).all()
    everywhere = np.ones(20, bool)
    gradient = free.value_and_gradient(fit.theta)[1]
    assert prox_gradient_norm(fit.theta, gradient, lam, everywhere, bounds=bounds) == pytest.approx(fit.prox_gradient, abs=1e-9)
    assert prox_gradient_norm(fit.theta, gradient, lam, everywhere) > 0.1  # the bounds do hold it back


def test_a_part_in_closed_form_is_taken_as_it_is():
    """A nearly linear function within a stiff limit: the optimum is scipy's, at a third of the gradients of a model of both."""
    rng = np.random.default_rng(3)
    slope, bend = rng.standard_normal(20), 0.02 * rng.standard_normal((20, 20))
    S, lam = rng.standard_normal((8, 20)), 0.3
    calls = []

    def limit(theta):
        length = np.linalg.norm(S @ theta)
        beyond = max(0.0, length - 1)
        return 50 * beyond**2, 100 * beyond * S.T @ (S @ theta) / max(length, 1e-300)

    def whole(theta):
        calls.append(theta)
        (cost, of_cost), bent = limit(theta), bend.T @ bend @ theta
        return float(slope @ theta + theta @ bent / 2) + cost, slope + bent + of_cost

    S[:, 8:] = 0.1 * S[:, 8:]
    wide = {"bounds": (-3.0, 3.0), "max_steps": 400, "tolerance": 1e-5, "step": 0.1}
    run(whole, lam, **wide)
    n_black = len(calls)
    calls.clear()
    known = run(whole, lam, cheap=limit, **wide)
    assert known.converged
    assert len(calls) < n_black / 3

    def split(both):  # positive and negative parts, so that the penalty is smooth
        value, gradient = whole(both[:20] - both[20:])
        return value + lam * both.sum(), np.concatenate([gradient, -gradient]) + lam

    options = {"maxiter": 20000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9}
    oracle = minimize(split, np.zeros(40), jac=True, method="L-BFGS-B", bounds=[(0, 3)] * 40, options=options)
    assert known.objective == pytest.approx(oracle.fun, rel=1e-6)
    np.testing.assert_allclose(known.theta, oracle.x[:20] - oracle.x[20:], atol=1e-3)
