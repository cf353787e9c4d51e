"""Circuits: the pieces against their definitions, and the whole on a network whose edges are known."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from steerpipe.studies.circuits import ablation, attribution, edges, graph, mediation
from steerpipe.studies.circuits.network import HEAD, LayerCodes

from .planted import FEATURES, HIGH, LOW, TOKENS, plant

P = 2000


def explore(network, sources, n_random=1, seed=0):
    """Sizes and p of every source's effects on the later layer and of its nulls', as the study has them."""
    codes, clean = LayerCodes(network, LOW), network.clean(LOW)
    rng = np.random.default_rng(seed)
    found = {kind: [] for kind in (ablation.FEATURE, ablation.DIRECTION, ablation.MATCHED)}
    changes = []
    for source in sources:
        mine = {kind: [] for kind in found}
        for trial in ablation.trials(network, LOW, source, codes.activity(), n_random=n_random, dose=False, seed=seed):
            change = ablation.respond(network, LOW, codes, trial, clean).changes[HIGH]
            mine[trial.kind].append((np.abs(edges.effects(change).effect), edges.sign_flip_p(change, P, rng)))
            if trial.kind == ablation.FEATURE:
                changes.append(change)
        for kind, rows in mine.items():
            found[kind].append(np.array(rows))
    return found, changes


def cut_of(found, level=0.05):
    real = np.concatenate(found[ablation.FEATURE])
    q = stats.false_discovery_control(real[:, 1].ravel()).reshape(real[:, 1].shape)
    largest = real[:, 1][q < level].max(initial=0)
    sizes = np.where(real[:, 1] <= largest, real[:, 0], 0)
    nulls = [[np.where(r[:, 1] <= largest, r[:, 0], 0) for r in found[k]] for k in (ablation.DIRECTION, ablation.MATCHED)]
    return sizes, edges.empirical_cut(sizes, *nulls, level)


@pytest.fixture(scope="module")
def explored():
    network, weights = plant()
    return network, weights, *explore(network, np.arange(FEATURES))


def test_planted_edges_come_back(explored):
    _, weights, found, changes = explored
    sizes, cut = cut_of(found)
    edge, true = sizes >= cut.size, weights != 0
    assert (edge & true).sum() >= 0.9 * edge.sum() > 0
    assert (edge & true).sum() >= 0.9 * true.sum()
    assert max(cut.fdr_direction, cut.fdr_matched) <= 0.05
    assert cut.n_edges == edge.sum()
    signs = np.sign([change.mean(0) for change in changes])
    assert (signs[edge & true] == -np.sign(weights[edge & true])).all()


def test_a_d_tells_no_edge_from_a_random_direction(explored):
    """What the cut is on: Cohen's d of random directions is as large as that of the planted edges."""
    network, weights, _, changes = explored
    codes, clean = LayerCodes(network, LOW), network.clean(LOW)
    source = int(np.flatnonzero(weights.any(1))[0])
    some = ablation.trials(network, LOW, source, codes.activity(), n_random=1, dose=False, seed=0)
    null = ablation.respond(network, LOW, codes, some[1], clean).changes[HIGH]
    own = edges.effects(changes[source]).d[weights[source] != 0]
    assert np.abs(edges.effects(null).d).max() > 0.5 * np.abs(own).max()


def test_blocks_that_ignore_the_stream_give_no_edge():
    """The later layer's features are written by nothing below: ablations leave them alone but for rounding."""
    network, _ = plant(1, weights=np.zeros((FEATURES, FEATURES)))
    found, changes = explore(network, np.arange(10))
    sizes, cut = cut_of(found)
    assert cut.n_edges == 0
    assert np.isinf(cut.size)
    assert max(np.abs(change).max() for change in changes) < 1e-5
    assert sizes.max() < 1e-4


def test_features_that_do_what_random_directions_do_are_no_edges(rng):
    real, nulls = rng.exponential(1, (20, 300)), [rng.exponential(1, (2, 300)) for _ in range(20)]
    assert edges.empirical_cut(real, nulls, [np.zeros((0, 300))] * 20, 0.05).n_edges < 10
    planted = real.copy()
    planted[:, :5] += 20
    cut = edges.empirical_cut(planted, nulls, [np.zeros((0, 300))] * 20, 0.05)
    assert 100 <= cut.n_edges <= 110


def test_an_edge_that_matched_features_have_too_is_none():
    """A hub: every feature moves target 0; only its own source moves the others."""
    real = np.zeros((30, 40))
    real[:, 0] = 5
    real[np.arange(30), np.arange(30) + 5] = 9
    matched = [np.zeros((2, 40)) for _ in range(30)]
    for null in matched:
        null[:, 0] = 5
    none = [np.zeros((2, 40))] * 30
    assert edges.empirical_cut(real, none, none, 0.05).n_edges == 60
    cut = edges.empirical_cut(real, none, matched, 0.05)
    assert (cut.n_edges, cut.size, cut.fdr_matched) == (30, 9, 0)


def test_empirical_fdr_by_hand():
    real = np.array([[4.0, 3.0, 2.0, 1.0]])
    directions = [np.array([[2.5, 0, 0, 0], [0, 0, 0, 0]])]  # half a pair at 2.5, whatever its target
    assert edges.empirical_cut(real, directions, [np.zeros((0, 4))], 0.2) == (1.0, 4, 0.125, 0)
    matched = [np.array([[0, 3.5, 0, 0]])]  # it has the second edge
    assert edges.empirical_cut(real, [np.zeros((0, 4))], matched, 0.2) == (4.0, 1, 0, 0)
    assert edges.empirical_cut(real, [np.zeros((0, 4))], matched, 0.25) == (1.0, 4, 0, 0.25)


def test_effects_are_the_paired_ones(rng):
    before, after = rng.standard_normal((2, 9, 5))
    after[:, 4] = before[:, 4]
    change = after - before
    found = edges.effects(change)
    np.testing.assert_allclose(found.effect, change.mean(0))
    t = stats.ttest_rel(after[:, :4], before[:, :4]).statistic
    np.testing.assert_allclose(found.d[:4] * 3, t)
    assert found.d[4] == found.consistency[4] == 0
    assert found.consistency[0] == (np.sign(change[:, 0]) == np.sign(change[:, 0].mean())).mean()


def test_sign_flips_are_exact_where_they_are_few(rng):
    change = rng.standard_normal((8, 6)) + 0.4
    change[:, 5] = 0
    deals = np.array(list(itertools.product([-1, 1], repeat=8)))
    wanted = (np.abs(deals @ change) >= np.abs(change.sum(0)) - 1e-9).mean(0)
    np.testing.assert_allclose(edges.sign_flip_p(change, 256, rng), wanted)
    sampled = edges.sign_flip_p(np.tile(change, (2, 1)), 5000, rng)
    with_scipy = stats.permutation_test(
        (np.tile(change[:, 0], 2),), np.mean, permutation_type="samples", n_resamples=5000, rng=0
    )
    assert sampled[0] == pytest.approx(with_scipy.pvalue, abs=0.02)
    assert sampled[5] == 1


def test_sign_flip_p_is_uniform_without_an_effect(rng):
    p = edges.sign_flip_p(rng.standard_normal((20, 4000)), 1000, rng)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.015)


def test_an_ablation_is_the_edit_of_the_definition(explored):
    """The code off at every valid token, the error term kept, then the plain forward pass."""
    network, *_ = explored
    codes, clean = LayerCodes(network, LOW), network.clean(LOW)
    trial = ablation.trials(network, LOW, 3, codes.activity(), n_random=1, dose=True, seed=0)[0]
    found = ablation.respond(network, LOW, codes, trial, clean)
    x = torch.from_numpy(network.streams[LOW])
    sae, tokens = network.saes[LOW], network.valid
    z = sae.encode(x[:, tokens]).dense(FEATURES)
    off = z.clone()
    off[..., 3] = 0
    x[:, tokens] = off @ sae.W_dec + (x[:, tokens] - sae(x[:, tokens]))
    y = network.model.advance(x, LOW, HIGH)
    zbar = network.saes[HIGH].encode(y[:, tokens]).dense(FEATURES).mean(1)
    np.testing.assert_allclose(found.changes[HIGH], (zbar - clean[HIGH])[found.cells], atol=1e-5)
    fires = (z[..., 3] != 0).any(1).numpy()
    np.testing.assert_array_equal(found.cells, np.flatnonzero(fires))
    expression = network.model.forward_from(HIGH, y, tokens).expression
    np.testing.assert_allclose(found.changes[HEAD], (expression - clean[HEAD])[found.cells], atol=1e-4)


def test_nulls_are_as_long_and_as_active(explored):
    network, *_ = explored
    activity = LayerCodes(network, LOW).activity()
    found = ablation.trials(network, LOW, 7, activity, n_random=4, dose=True, seed=0)
    row = network.saes[LOW].W_dec[7]
    for trial in found:
        assert float(trial.vector.norm()) == pytest.approx(float(row.norm()), rel=1e-5)
    assert [trial.kind for trial in found] == ["feature", "dose"] + ["direction"] * 4 + ["matched"] * 4
    others = [trial.feature for trial in found if trial.kind == "matched"]
    assert 7 not in others
    mean = activity.mean(0)
    distance = np.abs(np.log(mean / mean[7]))
    assert np.isin(others, np.argsort(distance)[: 4 * 4 + 1]).all()
    again = ablation.trials(network, LOW, 7, activity, n_random=4, dose=True, seed=0)
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(found, again, strict=True))


def test_cells_where_a_feature_is_silent_are_left_out():
    network, _ = plant(2)
    silent = np.array([1, 5, 6])
    for layer in (LOW,):
        x = network.streams[layer]
        row = network.saes[layer].W_dec[0].numpy()
        x[silent] -= (x[silent] @ row)[..., None] * row + 3 * row  # below every other code
    codes, clean = LayerCodes(network, LOW), network.clean(LOW)
    trial = ablation.trials(network, LOW, 0, codes.activity(), n_random=0, dose=False, seed=0)[0]
    found = ablation.respond(network, LOW, codes, trial, clean)
    assert not np.isin(silent, found.cells).any()
    assert len(found.changes[HIGH]) == len(found.cells)


def test_attribution_is_the_directional_derivative():
    network, weights = plant(4, k=FEATURES)
    sources, targets = np.arange(0, FEATURES, 2), np.arange(0, FEATURES, 3)
    codes, clean = LayerCodes(network, LOW), network.clean(LOW)
    found = attribution.attributions(network, LOW, HIGH, targets, codes, n_cells=8)
    z = codes.of(5)[:4]
    step = network.add(network.stream(LOW, np.arange(4)), -1e-2 * z[..., None] * network.saes[LOW].W_dec[5])
    moved = network.read(LOW, step, [HIGH])[HIGH] - clean[HIGH][:4]
    np.testing.assert_allclose(found[:4, 5], moved[:, targets].numpy() / 1e-2, atol=2e-3)
    activity = codes.activity()
    off = [ablation.trials(network, LOW, i, activity, n_random=0, dose=False, seed=0)[0] for i in sources]
    measured = [ablation.respond(network, LOW, codes, trial, clean).changes[HIGH][:8].mean(0)[targets] for trial in off]
    edge = weights[np.ix_(sources, targets)] != 0
    assert edge.sum() > 3
    assert attribution.rank_correlation(found.mean(0)[sources][edge], np.array(measured)[edge]) > 0.9
    assert np.isnan(attribution.rank_correlation(np.zeros(5), np.arange(5)))


@pytest.mark.parametrize("direct", [0.0, 1.0, -0.4])
def test_mediation_share_is_the_planted_one(direct):
    """Feature i reaches every gene through its one child with w (and by its mean about half of that again), and itself."""
    network, weights = plant(3, direct=direct, k=FEATURES)
    source = int(np.flatnonzero((weights > 0).any(1))[0])
    child = np.flatnonzero(weights[source])
    codes, clean, later = LayerCodes(network, LOW), network.clean(LOW), LayerCodes(network, HIGH)
    z, row = codes.of(source), network.saes[LOW].W_dec[source]
    others = np.setdiff1d(np.arange(FEATURES), child)[:3]
    held = mediation.hold(
        network, LOW, lambda g: -z[g][..., None] * row, HIGH, [child, others],
        weights=np.full(len(network.valid), 1 / len(network.valid)), clean=clean, later=later,
    )  # fmt: skip
    through = (1 + 0.5 * TOKENS / (TOKENS + 2)) * weights[source, child[0]]  # the mean is over the depth tokens too
    wanted = through / (through + direct)
    rng = np.random.default_rng(0)
    found, control = (mediation.mediated(held.total, rest, 200, rng) for rest in held.rest)
    assert found.share == pytest.approx(wanted, abs=0.05)
    assert found.lo <= found.share <= found.hi
    assert control.share == pytest.approx(0, abs=0.05)


def test_a_drawing_can_be_read(rng):
    """40 nodes at the most, those of the strongest edges; a node's edges are few; skipped levels are left out."""
    rows = [
        {"layer": layer, "source": i, "to": to, "target": str(j), "edge": True, "effect": float(rng.normal()), "d": 1.0,
         "consistency": 1.0, "q": 0.01}
        for layer, to in ((2, "layer 3"), (3, "layer 4"), (4, "head"), (2, "head"))
        for i in range(25)
        for j in range(25)
    ]  # fmt: skip
    levels = graph.level_names([2, 3, 4], head=True)
    whole = graph.build(pd.DataFrame(rows), {2: {3: "a label"}})
    assert whole.nodes["layer 2/3"]["label"] == "a label"
    some = graph.drawn(whole, levels)
    assert len(some) == 40
    assert not any(some.nodes[a]["level"] == "layer 2" and some.nodes[b]["level"] == "head" for a, b in some.edges)
    assert some.number_of_edges() <= 3 * 3 * 20
    strongest = max((e for e in whole.edges(data=True) if e[1].startswith("layer 3")), key=lambda e: e[2]["size"])
    places = graph.places(some, levels)
    assert places.groupby("x").size().tolist() == [10] * 4
    assert places["y"].between(0, 1).all()
    assert strongest[0] in some
    text = graph.graphml(whole)
    again = nx.parse_graphml(text)
    assert again.edges["layer 2/1", "layer 3/2"]["effect"] == whole.edges["layer 2/1", "layer 3/2"]["effect"]
    assert again.edges["layer 2/1", "layer 3/2"]["sign"] == ("+" if rows[27]["effect"] < 0 else "-")
