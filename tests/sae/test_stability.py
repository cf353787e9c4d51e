"""Matching of features: what is the same is found, and what is random is not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from steerpipe.sae.stability import cosines, match, ochiai


def test_a_permuted_dictionary_is_itself(rng):
    rows = rng.standard_normal((50, 16))
    order = rng.permutation(50)
    found = match(cosines(rows, 3.0 * rows[order]))
    assert found.row(0.7) == pytest.approx({"matched": 1, "mmcs": 1, "share_above": 1})
    np.testing.assert_array_equal(order[found.b], found.a)


def test_shared_features_are_found_among_others(rng):
    a, b = rng.standard_normal((2, 40, 64))
    b[:10] = a[:10] + 0.1 * rng.standard_normal((10, 64))
    found = match(cosines(a, b))
    assert found.row(0.7)["share_above"] == pytest.approx(0.25)
    assert (found.b[:10] == np.arange(10)).all()
    assert (found.best[:10] > 0.9).all()


def test_a_flipped_row_is_another_feature(rng):
    rows = rng.standard_normal((8, 64))
    assert match(cosines(rows, -rows)).row(0.7)["share_above"] == 0


def test_matching_is_one_to_one_and_best_in_total():
    similarity = np.array([[0.9, 0.8], [0.85, 0.1]])  # greedy would take .9 + .1
    found = match(similarity)
    assert found.similarity.sum() == pytest.approx(1.65)
    assert found.row(0.5)["mmcs"] == pytest.approx(0.875)
    wide = match(np.array([[0.1, 0.9, 0.2]]))
    assert (wide.b.tolist(), len(wide.best)) == ([1], 1)


def test_ochiai_by_hand():
    a = sp.csr_matrix(np.array([[1, 1, 1, 1], [0, 0, 0, 0]]))
    b = sp.csr_matrix(np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(ochiai(a, b), [[0.5, 2 / 8**0.5, 0], [0, 0, 0]])
