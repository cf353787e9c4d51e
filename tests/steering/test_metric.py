"""Metrics of the latent objective."""

from __future__ import annotations

import numpy as np
import pytest

from steerpipe.errors import SteerError
from steerpipe.steering.lasso import LatentProblem
from steerpipe.steering.metric import orthogonal_penalty, whitening


def sides(rng, n=4000, d=5, difference=3.0):
    mixing = rng.standard_normal((d, d)) + 2 * np.eye(d)
    return mixing, rng.standard_normal((n, d)) @ mixing, rng.standard_normal((n // 2, d)) @ mixing + difference


def test_whitening_makes_the_within_side_scatter_round_whatever_the_difference(rng):
    _, source, target = sides(rng, difference=50.0)
    metric = whitening(source, target)
    for side in (source, target):
        covariance = np.cov(side @ metric, rowvar=False)
        np.testing.assert_allclose(covariance / np.trace(covariance) * 5, np.eye(5), atol=0.15)
    np.testing.assert_allclose(metric, metric.T)
    assert (np.linalg.eigvalsh(metric) > 0).all()
    assert metric.dtype == np.float64


def test_whitening_is_proportional_to_the_inverse_root_of_the_planted_covariance(rng):
    mixing, source, target = sides(rng)
    squared = np.linalg.inv(mixing.T @ mixing)
    metric = whitening(source, target)
    np.testing.assert_allclose(metric @ metric, squared / np.trace(squared) * 5, atol=0.1)


def test_the_mean_square_gain_is_one(rng):
    _, source, target = sides(rng)
    for scale in (1e-3, 1.0, 1e3):
        assert np.square(whitening(scale * source, scale * target)).sum() == pytest.approx(5)
    np.testing.assert_allclose(whitening(1e3 * source, 1e3 * target), whitening(source, target), atol=1e-9)


def test_fewer_cells_than_dimensions_are_shrunk_not_singular(rng):
    metric = whitening(rng.standard_normal((4, 30)).astype(np.float32), rng.standard_normal((3, 30)).astype(np.float32))
    values = np.linalg.eigvalsh(metric)
    assert values.max() < 10 * values.min()


def test_cells_without_scatter_have_no_whitening():
    with pytest.raises(SteerError, match="more, or metric=euclidean"):
        whitening(np.ones((1, 3)), np.zeros((1, 3)))


def test_off_the_direction_costs_more_along_it_the_same(rng):
    direction = rng.standard_normal(6)
    metric = orthogonal_penalty(direction, 3.0)
    off = rng.standard_normal(6)
    off -= off @ direction / (direction @ direction) * direction
    assert np.square(direction @ metric).sum() == pytest.approx(np.square(direction).sum())
    assert np.square(off @ metric).sum() == pytest.approx(4 * np.square(off).sum())
    np.testing.assert_allclose(orthogonal_penalty(direction, 0.0), np.eye(6), atol=1e-12)


def test_the_penalty_brings_a_recipe_nearer_to_the_line(rng):
    W, goal = rng.standard_normal((40, 10)), rng.standard_normal(10)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    zbar = rng.exponential(1.0, (1, 40))
    angle = []
    for weight in (0.0, 10.0):
        problem = LatentProblem(zbar, W, np.zeros((1, 10)), goal, metric=orthogonal_penalty(goal, weight))
        shift = problem.shift(problem.solve(0.2 * problem.lam_max).theta)[0]
        angle.append(shift @ goal / np.linalg.norm(shift) / np.linalg.norm(goal))
    assert angle[1] > angle[0] + 0.02


@pytest.mark.parametrize(("direction", "weight"), [(np.zeros(3), 1.0), (np.ones(3), -0.5)])
def test_a_penalty_without_direction_or_of_negative_weight_is_refused(direction, weight):
    with pytest.raises(SteerError, match="weight >= 0"):
        orthogonal_penalty(direction, weight)
