"""A whole annotation on planted features: what is planted is found, replicates, and random sets are not annotated."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from steerpipe.interpret.activity import feature_activity
from steerpipe.interpret.annotation import Library, Rules, annotate, compare_ic


@pytest.fixture
def library(rng):
    """Set 0 is feature 0's genes, set 1 feature 1's, set 2 has gene 50, the other 30 are random."""
    table = (rng.random((33, 60)) < 0.15).astype(np.int32)
    table[:3] = 0
    table[0, :12], table[1, 20:40], table[2, 48:53] = 1, 1, 1
    return Library(sp.csr_matrix(table), np.linspace(2, 6, 33))


@pytest.fixture
def found(dictionary, planted, library):
    activity = feature_activity(dictionary, planted, planted.types)
    expression = np.random.default_rng(1).permutation(60).astype(float)
    return annotate(activity, np.ones(60, bool), expression, library, Rules(smallest=5, largest=20, n_random=10))


def test_planted_terms_are_found_and_replicate(found):
    best = found.pairs.take(found.pairs.best())
    assert dict(zip(best.feature, best.term, strict=True)) | {0: 0, 1: 1} == dict(zip(best.feature, best.term, strict=True))
    assert found.annotated(0.05)[:4].tolist() == [True, True, False, False]
    assert found.label[:2].tolist() == [0, 1]
    assert found.replication == found.replication_all == 1
    assert (found.label_q[:2] < 1e-4).all()
    assert found.alive.tolist() == [True] * 3 + [False] * 9
    assert found.max_ic[0] >= 2
    assert np.isnan(found.max_ic[3])


def test_random_gene_sets_are_rarely_annotated(found):
    assert found.false_positive <= 0.02


def test_the_control_says_so_where_expression_alone_explains_the_terms(dictionary, planted, library):
    """Genes of like expression are the planted sets themselves here: random draws are annotated just as well."""
    activity = feature_activity(dictionary, planted, planted.types)
    found = annotate(activity, np.ones(60, bool), np.arange(60.0), library, Rules(smallest=5, largest=20, n_random=3))
    assert found.false_positive == found.annotated(0.05).mean() > 0


def test_a_label_that_holds_on_one_half_alone_does_not_replicate(dictionary, planted, library):
    activity = feature_activity(dictionary, planted, planted.types)
    sums = activity.sums.copy()
    sums[1, 0] = np.roll(sums[1, 0], 40)  # on the second half feature 0 fires on other genes
    other = type(activity)(sums, *(getattr(activity, name) for name in list(activity.__dataclass_fields__)[1:]))
    found = annotate(other, np.ones(60, bool), np.arange(60.0), library, Rules(smallest=5, largest=20, n_random=1))
    assert found.label[0] == 0
    assert found.label_q[0] > 0.05
    assert found.label_q[1] < 1e-4
    assert found.replication == 0.5


def test_genes_outside_the_background_are_not_tested(dictionary, planted, library):
    activity = feature_activity(dictionary, planted, planted.types)
    expressed = np.arange(60) >= 20
    few = Library(sp.csr_matrix(library.sets[:, 20:]), library.information)
    found = annotate(activity, expressed, np.arange(60.0), few, Rules(smallest=5, largest=20, n_random=1))
    assert found.tested.shape == (12, 40)
    assert found.tested[0].nnz == 0
    assert found.sets[0].nnz > 5
    assert found.pairs.tested == 2 * 33  # feature 0 has no gene there, feature 3 and the dead ones none at all


def test_the_table_row_and_the_comparison(found):
    row = found.row("sae", 0.05)
    assert row["annotated"] == pytest.approx(2 / 12)
    assert row["annotated_of_alive"] == pytest.approx(2 / 3)
    assert row["pr_q1"] <= row["pr_median"] <= row["pr_q3"]
    assert compare_ic(found, found) == pytest.approx(1.0)
