"""Distances by their axioms, scores against scipy, DE genes and gap fractions on planted data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from steerpipe.evaluate.de import direction_test, expressed_genes, gap_fraction, pick_de_genes
from steerpipe.evaluate.distances import distances, nearest_mean, score


def test_distance_axioms(rng):
    a, b, c = rng.standard_normal((3, 8))
    assert distances(a[None], a)[0] == 0
    assert distances(a[None], b)[0] == pytest.approx(distances(b[None], a)[0])
    assert distances(a[None], c)[0] <= distances(a[None], b)[0] + distances(b[None], c)[0]


def test_nearest_mean_equals_brute_force(rng):
    a, b = rng.standard_normal((5, 3)), rng.standard_normal((20, 3))
    every = np.sort(np.linalg.norm(a[:, None] - b[None], axis=2), axis=1)
    np.testing.assert_allclose(nearest_mean(a, b, 4), every[:, :4].mean(1))


def test_score_of_a_planted_move(rng):
    before = rng.uniform(1, 2, 200)
    after = before * np.where(np.arange(200) < 150, 0.8, 1.1)
    found = score(before, after, n_bootstrap=500)
    assert found.closer == 0.75
    assert found.closer_lo < 0.75 < found.closer_hi
    assert 0.1 < found.closer_hi - found.closer_lo < 0.15  # 2 * 1.96 * sqrt(.75 * .25 / 200) = 0.12
    assert found.change == pytest.approx(-0.2)
    assert found.p == pytest.approx(stats.wilcoxon(after, before, alternative="less").pvalue)


def test_no_change_is_no_claim():
    found = score(np.ones(30), np.ones(30))
    assert (found.closer, found.change, found.p) == (0.0, 0.0, 1.0)


def test_intervals_cover_the_truth(rng):
    covered = 0
    for i in range(100):
        before = np.ones(60)
        after = np.where(rng.random(60) < 0.6, 0.9, 1.1)
        found = score(before, after, n_bootstrap=300, seed=i)
        covered += found.closer_lo <= 0.6 <= found.closer_hi
    assert covered >= 88


def test_de_genes_are_split_by_sign_ranked_and_kept_apart(rng):
    difference = np.array([3.0, -2.0, 1.0, -1.0, 0.5, 9.0, 2.5, -0.1])
    source = rng.normal(0, 0.01, (30, 8))
    target = source + difference
    expressed = np.arange(8) != 5
    seen = np.array([True, True, False, False, True, True, False, False])
    genes = pick_de_genes(source, target, expressed, seen, 4)
    assert genes.up.tolist() == [0, 6, 2, 4]
    assert genes.down.tolist() == [1, 3, 7]
    assert genes.up_seen.tolist() == [0, 4]
    assert genes.up_unseen.tolist() == [6, 2]
    assert genes.down_unseen.tolist() == [3, 7]
    assert not set(genes.up_seen) & set(genes.up_unseen)


def test_expressed_genes():
    counts = np.zeros((1000, 3))
    counts[:6, 0] = 1
    counts[:4, 1] = 1
    counts[0, 2] = 20
    assert expressed_genes(counts).tolist() == [True, False, True]


def test_gap_fraction_and_direction():
    before, target = np.zeros((4, 4)), np.ones((3, 4)) * [1, 2, -1, 0]
    after = np.ones((4, 4)) * [0.5, 3.0, 0.2, 0.1]
    gaps = gap_fraction(before, after, target, list("abcd"))
    np.testing.assert_allclose(gaps["gap_fraction"][:3], [0.5, 1.5, -0.2])
    assert np.isnan(gaps["gap_fraction"][3])
    share, p = direction_test(gaps, np.arange(3))
    assert share == pytest.approx(2 / 3)
    assert p == pytest.approx(0.5)
