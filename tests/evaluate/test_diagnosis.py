"""Floors, verdicts and entanglement against what was planted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerpipe.evaluate.diagnosis import (
    VERDICTS,
    effect_and_null,
    entanglement,
    gene_sets,
    matched_features,
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
        [(2, 1, 2, 1, 0.9), (2, 1, 2, 1, 0.1), (2, 1, 0, 1, 0.9), (0, 1, 2, 1, 0.9), (0, 1, 0, 1, 0.9)],
        columns=["activation", "activation_floor", "effect", "effect_floor", "stability"],
    )
    assert verdicts(table, stable=0.6).tolist() == [VERDICTS[i] for i in (0, 1, 2, 2, 3)]


def test_gene_sets_are_as_large_as_the_participation_ratio():
    matrix = np.zeros((4, 300))
    matrix[0, :40] = 1.0  # 40 equal genes
    matrix[1, 5] = 3.0  # one gene: clipped from below
    matrix[2] = 1.0  # all of them: clipped from above
    sets = gene_sets(matrix)
    assert set(sets[0]) == set(range(40))
    assert (len(sets[1]), sets[1][0]) == (10, 5)
    assert len(sets[2]) == 100
    assert len(sets[3]) == 0


def test_entanglement_is_one_for_both_directions_and_zero_for_one():
    up, down = np.arange(0, 10), np.arange(10, 20)
    sets = [np.arange(5, 15), np.arange(0, 5), np.arange(8, 14), np.arange(50, 60)]
    np.testing.assert_allclose(entanglement(sets, up, down)[:3], [1.0, 0.0, 0.5])
    assert np.isnan(entanglement(sets, up, down)[3])
