"""The registry of distances, direction, cumulative gap and entanglement, on planted data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from steerpipe.evaluate.de import cumulative, de_signs, direction_row, direction_test, gap_fraction, moved_genes, pick_de_genes
from steerpipe.evaluate.entanglement import entanglement, gene_activity, participation_set
from steerpipe.evaluate.metrics import METRICS, Outcome
from steerpipe.sae.model import TopKSAE
from steerpipe.steering.intervene import CachedCells, State

from ..conftest import random_model

N, G, D = 20, 40, 5


@pytest.fixture
def planted(rng):
    """Steering that moves gene 0 up and gene 1 down, both by half of the way, and the embedding by all of it."""
    before = State(*(rng.normal(size=(N, n)) for n in (D, D, G)))
    step = np.zeros(G)
    step[[0, 1]] = 2.0, -2.0
    moved = before.expression + step + rng.normal(0, 1e-3, (N, G))
    target = State(before.layer[:8] + 5, before.final[:8] + 5, rng.normal(size=(15, G)) + 2 * step)
    after = State(before.layer + 5, before.final + 5, moved)
    everything = np.ones(G, bool)
    genes = pick_de_genes(before.expression, target.expression, everything, np.arange(G) % 2 == 0, 6)
    return Outcome(before, after, target, genes, everything, 10)


def test_every_metric_is_registered_with_its_direction():
    assert {"layer", "final", "layer_nearest", "final_nearest", "de_up", "de_down_unseen", "steering_de_up"} <= set(METRICS)
    assert {metric.better for metric in METRICS.values()} <= {"lower", "higher"}
    assert all(metric.about and name == metric.name for name, metric in METRICS.items())


def test_every_metric_sees_the_planted_move(planted):
    for name, metric in METRICS.items():
        pair = metric.function(planted)
        assert pair is not None, name
        before, after = pair
        assert len(before) == len(after) == N
        if "seen" not in name or name in ("de_up_seen", "de_down_unseen"):  # the halves that hold gene 0, and gene 1
            assert (after < before).mean() > 0.8, name


def test_a_no_op_moves_no_distance_and_has_no_steering_genes(planted):
    idle = planted._replace(after=planted.before)
    for name, metric in METRICS.items():
        pair = metric.function(idle)
        if name.startswith("steering_de"):
            assert pair is None
        else:
            np.testing.assert_array_equal(*pair)


def test_without_a_head_only_the_embeddings_are_scored(planted):
    bare = planted._replace(genes=None, target=planted.target._replace(expression=np.zeros((15, 0))))
    assert {n for n, m in METRICS.items() if m.function(bare) is not None} == {
        "layer", "layer_nearest", "final", "final_nearest"
    }  # fmt: skip


def test_steering_genes_are_chosen_on_cells_other_than_those_scored(planted, rng):
    """A gene that moves in the even cells alone is scored in the odd ones, where it did nothing."""
    after = planted.before.expression.copy()
    after[::2, 7] += 3 + rng.normal(0, 0.01, N // 2)
    outcome = planted._replace(after=planted.after._replace(expression=after))
    before, moved = METRICS["steering_de_up"].function(outcome)
    assert np.isnan(before[::2]).all()
    np.testing.assert_array_equal(before[1::2], moved[1::2])


def test_moved_genes_are_those_of_scipy_and_bonferroni(rng):
    before = rng.normal(size=(12, 200))
    after = before + rng.normal(0, 1, (12, 200)) + np.where(np.arange(200) < 20, 4.0, 0) * np.where(np.arange(200) % 2, 1, -1)
    among = np.arange(200) != 3
    up, down = moved_genes(before, after, among, 50)
    p = stats.ttest_rel(after, before).pvalue * 199
    wanted = set(np.flatnonzero((p < 0.05) & among))
    assert set(up) | set(down) == wanted
    assert len(wanted) > 10
    assert set(up) <= set(range(1, 20, 2))
    change = (after - before).mean(0)
    assert (np.diff(np.abs(change[down])) <= 0).all()
    still, _ = moved_genes(before, before + np.where(np.arange(200) == 5, 1.0, 0), among, 50)
    assert still.tolist() == [5]  # a change without spread is a change


def test_direction_row_by_hand():
    before, target = np.zeros((4, 3)), np.ones((5, 3)) * [1.0, 2.0, -1.0]
    after = np.array([[0.5, 3.0, 0.2]] * 4)
    row = direction_row(before, after, target, n_bootstrap=50)
    assert row["right"] == pytest.approx(2 / 3)
    assert row["overshoot"] == pytest.approx(1 / 3)
    assert row["gap_fraction"] == row["gap_fraction_lo"] == pytest.approx((0.5 + 3.0 - 0.2) / 4)
    assert row["p"] == pytest.approx(0.5)


def test_the_interval_of_the_gap_fraction_covers_the_truth(rng):
    covered = 0
    for i in range(100):
        share = rng.normal(0.3, 0.2, 40)
        row = direction_row(np.zeros((40, 4)), share[:, None] * np.ones(4), np.ones((5, 4)), n_bootstrap=200, seed=i)
        covered += row["gap_fraction_lo"] <= 0.3 <= row["gap_fraction_hi"]
    assert covered >= 86


def test_cumulative_goes_from_the_largest_effect_to_the_whole(rng):
    before, target, after = (rng.normal(size=(n, 30)) for n in (6, 8, 6))
    gaps = gap_fraction(before, after, target, [f"g{i}" for i in range(30)])
    among = np.arange(5, 30)
    table = cumulative(gaps, among)
    assert (np.diff(table["effect"]) <= 0).all()
    assert table["k"].tolist() == list(range(1, 26))
    share, p = direction_test(gaps, among)
    assert (table["right"].iloc[-1], table["p"].iloc[-1]) == pytest.approx((share, p))
    first = gaps.set_index("gene").loc[table["gene"].iloc[0]]
    assert table["gap_fraction"].iloc[0] == pytest.approx(first["gap_fraction"])
    whole = direction_row(before[:, among], after[:, among], target[:, among])
    assert table["gap_fraction"].iloc[-1] == pytest.approx(whole["gap_fraction"])


def test_de_signs_find_the_planted_genes(rng):
    source, target = rng.normal(size=(30, 300)), rng.normal(size=(25, 300))
    target[:, :10] += 3
    target[:, 10:20] -= 3
    expressed = np.arange(300) != 4
    signs = de_signs(source, target, expressed)
    assert (signs[:4] == 1).all()
    assert signs[4] == 0
    assert (signs[10:20] == -1).all()
    assert np.abs(signs[20:]).sum() <= 4


def test_entanglement_by_hand():
    signs = np.array([1, 1, 1, -1, 0, 0])
    sets = {4: np.array([0, 1, 2, 3]), 7: np.array([0, 1, 4]), 9: np.array([4, 5])}
    table = entanglement(sets, signs).set_index("feature")
    assert table.loc[4, "entanglement"] == pytest.approx(1 / 3)
    assert table.loc[7, "entanglement"] == 0
    assert np.isnan(table.loc[9, "entanglement"])
    assert table["n_genes"].tolist() == [4, 3, 2]
    assert list(entanglement({}, signs).columns) == ["feature", "n_genes", "n_up", "n_down", "entanglement"]
    assert isinstance(table, pd.DataFrame)


def test_participation_ratio_counts_the_genes_that_matter():
    flat = np.zeros(500)
    flat[100:140] = 2.0
    assert set(participation_set(flat)) == set(range(100, 140))
    assert len(participation_set(np.ones(500))) == 100
    assert participation_set(np.eye(500)[3]).tolist() == [3]  # at least ten, but only where there is activity


def test_gene_activity_is_the_mean_of_dense_codes():
    valid = torch.tensor([0, 2, 3, 7])
    model = random_model([f"g{i}" for i in range(9)], seed=1)
    stream = torch.randn(5, 11, 32, generator=torch.Generator().manual_seed(0))
    sae = TopKSAE(32, 24, 4).initialise(1).requires_grad_(False)
    features, cells = np.array([1, 5, 20]), np.array([0, 2, 3])
    found = gene_activity(CachedCells(model, 0, stream.numpy(), valid), sae, features, cells, batch_size=2)
    dense = sae.encode(stream[cells][:, valid]).dense(24).abs().mean(0)  # (genes, F)
    np.testing.assert_allclose(found, dense[:, features].T.numpy(), atol=1e-6)
