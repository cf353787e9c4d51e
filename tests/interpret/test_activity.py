"""The feature x gene matrix and what is cut from it, on planted tokens."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from steerpipe.interpret.activity import Activity, feature_activity, halve_cells, top_genes
from steerpipe.interpret.annotation import type_enrichment
from steerpipe.interpret.programs import (
    background,
    gene_expression,
    gene_sets,
    matched_random_sets,
    participation_ratio,
    set_genes,
)


@pytest.fixture
def found(dictionary, planted):
    return feature_activity(dictionary, planted, planted.types, sp.csr_matrix(planted.counts), np.arange(60), n_genes=5)


def test_the_matrix_is_the_mean_over_cells_that_have_the_gene(found, planted):
    kept = np.where(planted.keep[..., None], np.abs(planted.codes), 0)
    expected = kept.sum(0).T / planted.keep.sum(0)
    np.testing.assert_allclose(found.matrix()[:4], expected, rtol=1e-5)
    assert not found.matrix()[4:].any()
    second = halve_cells(planted.types, 0)
    for half, cells in (("label", ~second), ("score", second)):
        np.testing.assert_allclose(found.matrix(half)[:4], kept[cells].sum(0).T / planted.keep[cells].sum(0), rtol=1e-5)
    fired = (kept > 0).sum((0, 1)) / planted.keep.sum()
    np.testing.assert_allclose(found.density[:4], fired)


def test_where_the_gene_is_expressed(found, planted):
    kept = np.where(planted.keep[..., None], np.abs(planted.codes), 0)
    lit = (kept * (planted.counts > 0)[..., None]).sum((0, 1)) / np.maximum(kept.sum((0, 1)), 1e-9)
    np.testing.assert_allclose(found.expressed[:3], lit[:3], rtol=1e-5)
    assert found.expressed[1] == 0
    assert found.expressed[2] == pytest.approx(0.5)
    assert np.isnan(found.expressed[3])


def test_cell_types(found, planted):
    per_cell = np.abs(planted.codes * planted.keep[..., None]).sum(1) / planted.keep.sum(1)[:, None]
    np.testing.assert_allclose(found.type_mean[1, :4], per_cell[24:].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.type_square[0, :4], (per_cell[:24] ** 2).mean(0), rtol=1e-5)
    assert found.types == ("A", "B")
    assert found.cells.tolist() == [24, 16]
    assert found.type_genes[0, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.type_genes[0, 1].tolist() == [-1] * 5
    assert found.type_genes[1, 2].tolist() == [50, -1, -1, -1, -1]
    table = type_enrichment(found).set_index(["feature", "type"])
    assert table.loc[(1, "B"), "q"] < 1e-6
    assert table.loc[(1, "B"), "log2_ratio"] == np.inf
    assert table.loc[(1, "A"), "q"] > 0.9
    assert table.loc[(3, "A"), "q"] == 1


def test_halves_are_even_within_every_type(planted):
    second = halve_cells(planted.types, 3)
    assert second[:24].sum() == 12
    assert second[24:].sum() == 8
    assert not np.array_equal(second, halve_cells(planted.types, 4))
    assert halve_cells(["a", "b", "b"], 0).sum() in (1, 2)


def test_files(found, tmp_path):
    found.save(tmp_path)
    again = Activity.load(tmp_path)
    np.testing.assert_array_equal(again.matrix(), found.matrix())
    np.testing.assert_array_equal(again.type_genes, found.type_genes)
    assert again.types == found.types


def test_participation_ratio():
    M = np.zeros((5, 50), np.float32)
    M[0, :7] = 3
    M[1, 4] = 1e-20
    M[2] = 1e18
    M[3, :2] = 1, 2
    np.testing.assert_allclose(participation_ratio(M), [7, 1, 50, 25 / 17, 0], rtol=1e-6)


def test_gene_sets_are_the_strongest_genes_clipped(found):
    M = found.matrix()
    pr = participation_ratio(M)
    sets = gene_sets(M, pr, smallest=3, largest=15)
    assert np.diff(sets.indptr)[:4].tolist() == [round(pr[0]), 15, 1, 0]  # PR 20 is clipped; gene 50 is all that feature 2 has
    assert sorted(sets[0].indices) == list(range(round(pr[0])))
    assert set(sets[1].indices) <= set(range(20, 40))
    assert set_genes(sets, M, 0, [f"G{i}" for i in range(60)])[:3] == ["G0", "G1", "G2"]


def test_top_genes_break_ties_by_position_and_drop_zeros():
    assert top_genes(np.array([[0.0, 2, 2, 0, 1]]), 4, rows=1).tolist() == [[1, 2, 4, -1]]


def test_the_background_is_the_expressed_genes(rng):
    counts = sp.random(300, 6, 0.0, format="csr", dtype=np.float32).tolil()
    counts[0, 0], counts[0, 1], counts[:2, 2] = 1, 4, 1
    mean, share = gene_expression(sp.csr_matrix(counts), np.array([0, 1, 2, 5]), np.arange(300))
    np.testing.assert_allclose(mean, [1 / 300, 4 / 300, 2 / 300, 0])
    np.testing.assert_allclose(share, [1 / 300, 1 / 300, 2 / 300, 0])
    assert background(mean, share).tolist() == [False, True, True, False]


def test_matched_random_sets_keep_size_and_expression(rng):
    table = (rng.random((30, 200)) < 0.1).astype(np.int32)
    table[4] = 0
    table[:, :10] = 1  # a whole bin: nothing else can be drawn
    expression = np.arange(200)[::-1].astype(float)
    sets = sp.csr_matrix(table)
    drawn = matched_random_sets(sets, expression, rng, n_bins=20)
    dense = drawn.toarray()
    assert dense.max() == 1
    np.testing.assert_array_equal(dense.sum(1), table.sum(1))
    np.testing.assert_array_equal(dense.reshape(30, 20, 10).sum(2), table.reshape(30, 20, 10).sum(2))
    assert (dense[:, 10:] != table[:, 10:]).any()
