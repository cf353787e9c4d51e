"""Floors, verdicts and entanglement against what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerpipe.evaluate.floors import (
    VERDICTS,
    calibration,
    effect_and_null,
    matched_features,
    null_p,
    permuted_cells,
    recruited_share,
    verdicts,
)


def test_permuted_cells_keep_each_genes_values_and_break_what_goes_together(rng):
    counts = np.repeat(np.arange(400.0)[:, None], 3, axis=1)  # the three genes always agree
    dealt = permuted_cells(counts, 400, rng)
    np.testing.assert_array_equal(np.sort(dealt, axis=0), counts)
    assert np.abs(np.corrcoef(dealt.T)[np.triu_indices(3, 1)]).max() < 0.2
    assert permuted_cells(counts, 7, rng).shape == (7, 3)


def test_matched_features_are_the_nearest_candidates():
    activity = np.array([1.0, 1.1, 5.0, 0.9, 0.0, 1.0])
    candidates = np.array([True, True, True, True, True, False])
    assert set(matched_features(0, activity, candidates, 2)) == {1, 3}
    assert len(matched_features(0, activity, candidates, 99)) == 3  # itself, the silent one and the excluded one left out


def test_the_effect_floor_finds_the_planted_feature(rng):
    """A quadratic in which feature 3 alone matters: its effect beats every swap, that of a useless one does not."""
    truth = np.zeros(60)
    truth[3] = 1.0

    def value(theta):
        return float(((theta - truth) ** 2).sum())

    theta = truth + np.eye(60)[9] * 0.4
    others = np.setdiff1d(np.arange(60), [3, 9])
    good, null = effect_and_null(value, theta, 3, others, loss=value(theta))
    assert good == pytest.approx(1.0)
    np.testing.assert_allclose(null, -1.0)  # any other in its place only costs
    useless, null = effect_and_null(value, theta, 9, others, loss=value(theta))
    assert useless == pytest.approx(-0.16)
    assert useless <= np.percentile(null, 95)


def test_recruited_share():
    thetas = np.array([[0.0, 0.5, 1e-9], [0.0, -0.5, 0.2]])
    np.testing.assert_array_equal(recruited_share(thetas), [0.0, 1.0, 0.5])


def test_each_verdict():
    table = pd.DataFrame(
        [
            (2, 1, 2, 1, 0.01, 0.9),
            (2, 1, 2, 1, 0.01, 0.1),
            (2, 1, 0, 1, 0.01, 0.9),
            (0, 1, 2, 1, 0.01, 0.9),
            (0, 1, 0, 1, 0.01, 0.9),
            (2, 1, 2, 1, 0.2, 0.9),
        ],
        columns=["activation", "activation_floor", "effect", "effect_floor", "null_p", "stability"],
    )
    assert verdicts(table, stable=0.6).tolist() == [VERDICTS[i] for i in (0, 1, 2, 2, 3, 4)]


def test_a_feature_is_judged_by_the_largest_effect_of_each_deal():
    null = [np.array([1.0, 5.0]), np.array([]), np.array([2.0]), np.array([3.0, 0.1])]
    np.testing.assert_allclose(null_p(np.array([6.0, 4.0, 0.0]), null), [1 / 5, 2 / 5, 4 / 5])


def test_at_most_one_deal_in_twenty_calls_a_feature_real(rng):
    """However many features a contrast without a difference recruits, and however their effects go together."""
    null = [rng.exponential(rng.exponential(1), size=rng.integers(0, 30)) for _ in range(200)]
    features, called, deals, with_any = calibration(null)
    assert features == sum(map(len, null))
    assert deals == 200
    assert 0 < with_any <= 0.06 * deals
    assert called <= 0.05 * features
