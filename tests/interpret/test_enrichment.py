"""Over-representation: beside scipy and gseapy, with planted sets, and the correction over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from steerpipe.interpret.enrichment import enrich, upper_tails


def random_sets(rng, n, genes, low, high):
    rows = [rng.choice(genes, rng.integers(low, high), replace=False) for _ in range(n)]
    table = sp.lil_matrix((n, genes), dtype=np.int32)
    for i, row in enumerate(rows):
        table[i, row] = 1
    return sp.csr_matrix(table)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    features, library = random_sets(rng, 40, 500, 10, 60), random_sets(rng, 300, 500, 5, 80)
    features = sp.lil_matrix(features)
    features[7] = 0  # a dead feature
    features[3] = 0
    features[3, library[11].indices[:12]] = 1  # a planted one
    return sp.csr_matrix(features), library


def dense(found, shape, values):
    out = np.ones(shape)
    out[found.feature, found.term] = values
    return out


def test_p_is_scipys_for_every_pair_and_q_is_bh_over_all_of_them(problem):
    features, library = problem
    found, shape = enrich(features, library), (40, 300)
    k = np.asarray((features @ library.T).todense())
    n, K = np.diff(features.indptr), np.diff(library.indptr)
    p = stats.hypergeom.sf(k - 1, 500, K[None, :], n[:, None])
    np.testing.assert_allclose(dense(found, shape, found.p), p, rtol=1e-9)
    alive = n > 0
    q = np.ones(shape)
    q[alive] = stats.false_discovery_control(p[alive].ravel()).reshape(-1, 300)
    np.testing.assert_allclose(dense(found, shape, found.q), q, rtol=1e-9)
    assert found.tested == 39 * 300
    assert len(found.p) == (k > 0).sum()


def test_a_planted_set_is_found_and_a_random_one_is_not(problem):
    found = enrich(*problem)
    annotated = found.annotated(40, 0.05)
    assert annotated[3]
    assert annotated.sum() <= 3
    best = found.best()
    assert found.term[best][found.feature[best] == 3] == 11
    assert not annotated[7]


def test_ties_go_to_the_more_informative_set():
    features = sp.csr_matrix(np.array([[1, 1, 1, 0, 0, 0]], np.int32))
    library = sp.csr_matrix(np.array([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0]], np.int32))
    found = enrich(features, library)
    assert found.term[found.best(np.array([1.0, 3.0, 2.0]))] == 1
    assert found.term[found.best()] == 0
    assert len(enrich(sp.csr_matrix((2, 6), dtype=np.int32), library).best()) == 0


def test_small_p_values_keep_their_digits():
    table = upper_tails(np.array([100]), np.array([120]), 19_000, 100)
    k = np.arange(101)
    expected = stats.hypergeom.logsf(k - 1, 19_000, 120, 100)
    np.testing.assert_allclose(np.log(table[0, 0]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.oracle
def test_p_values_are_gseapys(problem):
    gseapy = pytest.importorskip("gseapy")
    features, library = problem
    genes = [f"G{i}" for i in range(500)]
    sets = {f"S{t}": [genes[i] for i in library[t].indices] for t in range(300)}
    found = enrich(features, library)
    for f in (0, 3, 12):
        mine = found.feature == f
        theirs = gseapy.enrich([genes[i] for i in features[f].indices], gene_sets=sets, background=genes, outdir=None).results
        theirs = theirs.set_index("Term")["P-value"].astype(float)
        assert set(theirs.index) == {f"S{t}" for t in found.term[mine]}
        np.testing.assert_allclose([theirs[f"S{t}"] for t in found.term[mine]], found.p[mine], rtol=1e-9)
