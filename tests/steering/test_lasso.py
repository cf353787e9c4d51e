"""The latent solver against scikit-learn, the optimality conditions, its own certificate and planted recipes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear, minimize
from sklearn.linear_model import Lasso

from steerpipe.errors import SteerError
from steerpipe.steering import adam
from steerpipe.steering.bounds import limits
from steerpipe.steering.lasso import LatentProblem


def make(n=20, f=60, d=12, seed=0, learnable=None, match="cell", **options):
    rng = np.random.default_rng(seed)
    zbar = rng.exponential(1.0, (n, f)) * (rng.random((n, f)) < 0.5)
    W = rng.standard_normal((f, d))
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    embeddings, mu = rng.standard_normal((n, d)), rng.standard_normal(d) * 2
    return LatentProblem(zbar, W, embeddings, mu, learnable, match=match, **options), zbar, W, embeddings, mu


def design(zbar, W, embeddings, mu, match="cell"):
    if match == "population":
        zbar, embeddings = zbar.mean(0, keepdims=True), embeddings.mean(0, keepdims=True)
    n, d = embeddings.shape
    X = (zbar[:, None, :] * W.T[None]).reshape(n * d, -1) / np.sqrt(n)
    return X, ((mu - embeddings) / np.sqrt(n)).ravel()


BOTH = pytest.mark.parametrize("match", ["population", "cell"])


@BOTH
@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
def test_equals_scikit_learn(ratio, match):
    problem, *parts = make(match=match)
    X, y = design(*parts, match)
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


@BOTH
def test_lam_max_is_the_edge(match):
    problem, *_ = make(match=match)
    assert not problem.solve(problem.lam_max * 1.0001).theta.any()
    assert problem.solve(problem.lam_max * 0.999).theta.any()


@BOTH
def test_optimality_conditions_and_gap_on_a_large_problem(match):
    problem, zbar, W, embeddings, mu = make(n=66, f=2000, d=64, seed=3, match=match)
    if match == "population":
        zbar, embeddings = zbar.mean(0, keepdims=True), embeddings.mean(0, keepdims=True)
    fits = problem.path(problem.lam_max * np.geomspace(1, 0.01, 30))
    for fit in fits:
        residual = mu - embeddings - (zbar * fit.theta) @ W
        gradient = -2 * (zbar * (residual @ W.T)).sum(0) / len(zbar)
        on = fit.theta != 0
        assert np.abs(gradient[on] + fit.lam * np.sign(fit.theta[on])).max(initial=0) < 1e-3 * fit.lam
        assert np.abs(gradient[~on]).max() <= fit.lam * (1 + 1e-3)
        assert 0 <= fit.gap <= 1e-8
    assert fits[-1].objective < fits[0].objective


@BOTH
@pytest.mark.parametrize("bounds", [(None, None), (-0.05, None), (-0.05, 0.02)])
def test_the_gap_bounds_the_distance_from_the_optimum(match, bounds):
    problem, *_ = make(match=match, bounds=bounds)
    lam = 0.05 * problem.lam_max
    best = problem.solve(lam, tol=1e-13).objective
    for tol in (1e-1, 1e-2, 1e-4):
        rough = problem.solve(lam, tol=tol)
        assert rough.objective - best <= rough.gap * rough.objective + 1e-12


@BOTH
def test_a_warm_start_changes_nothing_but_time(match):
    problem, *_ = make(f=200, d=20, seed=2, match=match)
    path = problem.path(problem.lam_max * np.geomspace(1, 0.02, 12))
    cold = problem.solve(path[-1].lam)
    np.testing.assert_allclose(path[-1].theta, cold.theta, atol=1e-5)


@BOTH
def test_planted_recipe_is_recovered(match):
    rng = np.random.default_rng(0)
    n, f, d = 40, 80, 100
    zbar = rng.exponential(1.0, (n, f))
    W = np.linalg.qr(rng.standard_normal((d, f)))[0].T  # orthogonal rows: the sparse answer is the only one
    theta = np.zeros(f)
    theta[[3, 11, 42, 60]] = 1.5, -0.7, 2.0, -1.0
    mu = rng.standard_normal(d)
    problem = LatentProblem(zbar, W, mu - (zbar * theta) @ W, mu, match=match)
    fit = problem.solve(1e-4 * problem.lam_max)
    assert set(np.flatnonzero(np.abs(fit.theta) > 0.01)) == {3, 11, 42, 60}
    np.testing.assert_allclose(fit.theta, theta, atol=1e-2)


def test_only_learnable_and_firing_features_move():
    learnable = np.arange(60) % 2 == 0
    problem, *_ = make(learnable=learnable)
    problem.z[:, 4] = 0
    silent = LatentProblem(problem.z, problem.W, -problem.gap_vectors, np.zeros(12), learnable, match="cell")
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


@BOTH
def test_the_refit_is_least_squares_on_the_support(match):
    problem, *parts = make(match=match)
    X, y = design(*parts, match)
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


@BOTH
def test_the_loss_is_the_definition_in_the_metric_and_the_shift_is_in_none(match, rng):
    metric = rng.standard_normal((12, 12))
    problem, zbar, W, embeddings, mu = make(match=match, metric=metric)
    theta = rng.standard_normal(60)
    moved = embeddings + (zbar * theta) @ W
    gaps = (moved - mu) @ metric if match == "cell" else (moved.mean(0, keepdims=True) - mu) @ metric
    wanted = (gaps**2).sum(1).mean()
    assert problem.loss(theta) == pytest.approx(wanted)
    assert problem.value_and_gradient(theta)[0] == pytest.approx(wanted)
    shift = moved - embeddings
    np.testing.assert_allclose(problem.shift(theta), shift if match == "cell" else shift.mean(0, keepdims=True))


@BOTH
def test_the_gradient_equals_finite_differences_in_the_metric(match, rng):
    problem, *_ = make(match=match, metric=rng.standard_normal((12, 12)))
    theta, direction = rng.standard_normal((2, 60))
    slope = (problem.loss(theta + 1e-4 * direction) - problem.loss(theta - 1e-4 * direction)) / 2e-4
    assert problem.value_and_gradient(theta)[1] @ direction == pytest.approx(slope, rel=1e-6)


@BOTH
def test_a_metric_is_another_decoder_and_gap(match, rng):
    metric = rng.standard_normal((12, 12))
    problem, zbar, W, embeddings, mu = make(match=match, metric=metric)
    X, y = design(zbar, W @ metric, embeddings @ metric, mu @ metric, match)
    fit = problem.solve(0.1 * problem.lam_max)
    theirs = Lasso(alpha=fit.lam / (2 * len(y)), fit_intercept=False, tol=1e-12, max_iter=1_000_000).fit(X, y).coef_
    np.testing.assert_allclose(fit.theta, theirs, atol=1e-5)


def test_cells_may_have_targets_of_their_own(rng):
    _, zbar, W, embeddings, _ = make()
    mu = rng.standard_normal((20, 12))
    theta = rng.standard_normal(60)
    gaps = embeddings + (zbar * theta) @ W - mu
    assert LatentProblem(zbar, W, embeddings, mu, match="cell").loss(theta) == pytest.approx((gaps**2).sum(1).mean())
    assert LatentProblem(zbar, W, embeddings, mu).loss(theta) == pytest.approx((gaps.mean(0) ** 2).sum())


def test_the_population_form_gains_nothing_from_contraction():
    """Cells about the target's mean, each with a feature that draws it there: nothing to do for the population."""
    embeddings = np.array([[1.0, 0.0], [-1.0, 0.0]])
    zbar, W = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.0], [1.0, 0.0]])
    theta = np.ones(2)
    assert LatentProblem(zbar, W, embeddings, np.zeros(2), match="cell").loss(theta) == pytest.approx(0)
    population = LatentProblem(zbar, W, embeddings, np.zeros(2))
    assert population.loss(np.zeros(2)) == population.lam_max == 0


BOUNDS = [(-0.05, None), (None, 0.04), (-0.05, 0.02), (0.0, None), (None, 0.0), (0.0, 0.03)]


@BOTH
@pytest.mark.parametrize("bounds", BOUNDS)
def test_bounds_equal_scipy(match, bounds):
    """L-BFGS-B on theta = positive - negative, both halves non-negative: smooth, with the same minimum."""
    problem, *parts = make(match=match, bounds=bounds)
    X, y = design(*parts, match)
    fit = problem.solve(0.05 * problem.lam_max)
    lo, hi = limits(bounds)
    assert fit.gap <= 1e-8
    assert (fit.theta >= lo).all()
    assert (fit.theta <= hi).all()
    assert np.isclose(fit.theta, lo).any() or np.isclose(fit.theta, hi).any()

    def smooth(halves):
        r = X @ (halves[:60] - halves[60:]) - y
        slope = 2 * X.T @ r
        return r @ r + fit.lam * halves.sum(), np.concatenate([slope, -slope]) + fit.lam

    sides = [(0, hi)] * 60 + [(0, -lo)] * 60
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 20_000, "maxfun": 50_000}
    theirs = minimize(smooth, np.zeros(120), jac=True, bounds=sides, method="L-BFGS-B", options=options)
    assert fit.objective == pytest.approx(theirs.fun, rel=1e-6)
    np.testing.assert_allclose(fit.theta, theirs.x[:60] - theirs.x[60:], atol=1e-3)


@BOTH
@pytest.mark.parametrize("bounds", BOUNDS)
def test_optimality_conditions_within_bounds(match, bounds):
    problem, *_ = make(n=30, f=400, d=24, seed=6, match=match, bounds=bounds)
    lo, hi = limits(bounds)
    for fit in problem.path(problem.lam_max * np.geomspace(1, 0.02, 8)):
        slope = problem.value_and_gradient(fit.theta)[1]
        on = fit.theta != 0
        inside = on & (fit.theta > lo) & (fit.theta < hi)
        assert np.abs(slope + fit.lam * np.sign(fit.theta))[inside].max(initial=0) < 1e-3 * fit.lam
        outwards = np.sign(fit.theta) * slope + fit.lam
        assert outwards[on & ~inside].max(initial=-1) <= 1e-3 * fit.lam  # at a bound the loss would go further
        assert slope[~on].max(initial=0) <= fit.lam * (1 + 1e-3) or lo == 0
        assert (-slope)[~on].max(initial=0) <= fit.lam * (1 + 1e-3) or hi == 0
        assert problem.certificate(fit.theta, fit.lam) == pytest.approx((fit.objective, fit.gap), rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("bounds", [(0.0, None), (None, 0.0)])
def test_lam_max_knows_the_side_that_is_allowed(bounds):
    problem, *_ = make(bounds=bounds)
    assert not problem.solve(problem.lam_max * 1.0001).theta.any()
    assert problem.solve(problem.lam_max * 0.999).theta.any()
    sign = 1 if bounds[1] is None else -1
    assert problem.lam_max == 2 * (sign * problem.b).max()


@BOTH
def test_the_refit_keeps_to_the_bounds(match):
    problem, *parts = make(match=match, bounds=(-0.05, 0.06))
    X, y = design(*parts, match)
    theta = problem.solve(0.1 * problem.lam_max).theta
    on = theta != 0
    theirs = lsq_linear(X[:, on], y, (-0.05, 0.06), method="bvls", tol=1e-14)
    refit = problem.refit(theta)
    assert np.abs(np.linalg.lstsq(X[:, on], y, rcond=None)[0]).max() > 0.06
    assert problem.loss(refit) == pytest.approx(2 * theirs.cost, rel=1e-8)
    assert not refit[~on].any()
    assert (np.abs(refit - 0.005) <= 0.055 + 1e-12).all()
    assert not problem.refit(np.zeros(60)).any()


@BOTH
def test_without_a_feature_is_the_problem_in_which_it_may_not_move(match):
    problem, *parts = make(match=match)
    fit = problem.solve(0.1 * problem.lam_max)
    gone = np.abs(fit.theta).argmax()
    other = LatentProblem(*parts, np.arange(60) != gone, match=match)
    found, wanted = problem.solve(fit.lam, fit.theta, without=[gone]), other.solve(fit.lam)
    assert found.objective == pytest.approx(wanted.objective, rel=1e-7)
    assert found.gap <= 1e-8
    np.testing.assert_allclose(found.theta, wanted.theta, atol=1e-4)


@BOTH
def test_cosines_are_those_of_the_columns(match):
    learnable = np.arange(60) % 3 > 0
    problem, *parts = make(match=match, learnable=learnable)
    X, _ = design(*parts, match)
    unit = X / np.linalg.norm(X, axis=0)
    wanted = (unit.T @ unit)[[1, 2, 8]] * learnable
    np.testing.assert_allclose(problem.cosines(np.array([1, 2, 8])), wanted, atol=1e-12)


@pytest.mark.parametrize("bounds", [(0.1, None), (None, -0.1), (0.0, 0.0), (1.0, -1.0)])
def test_bounds_must_allow_no_change(bounds):
    with pytest.raises(SteerError, match="lo <= 0 <= hi"):
        make(bounds=bounds)


def test_an_unknown_match_is_refused():
    with pytest.raises(SteerError, match="population, cell"):
        make(match="centroid")
