"""Controls keep what they must keep."""

from __future__ import annotations

import numpy as np
import pytest

from steerpipe.steering.controls import mean_difference, random_direction, random_recipe


def test_random_recipe_keeps_the_values_on_other_features(rng):
    theta = np.zeros(50)
    theta[[1, 2, 3]] = 0.5, -2.0, 0.1
    candidates = np.arange(50) >= 10
    for _ in range(20):
        control = random_recipe(theta, candidates, rng)
        assert sorted(control[control != 0]) == [-2.0, 0.1, 0.5]
        assert not control[:10].any()
    with pytest.raises(ValueError, match="3 values for 2"):
        random_recipe(theta, np.arange(50) < 2, rng)


def test_random_direction_has_the_norm(rng):
    a, b = random_direction(2.5, 30, rng), random_direction(2.5, 30, rng)
    assert np.linalg.norm(a) == pytest.approx(2.5)
    assert abs(a @ b) / 2.5**2 < 0.7


def test_mean_difference():
    source, target = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 3.0]])
    np.testing.assert_allclose(mean_difference(source, target), [0, 3])
    np.testing.assert_allclose(mean_difference(source, target, norm=1.0), [0, 1])
