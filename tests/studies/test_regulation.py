"""Planted truth and oracles for the regulation study."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from steerpipe.data.regulons import Regulon
from steerpipe.studies.regulation import arms as arms_module
from steerpipe.studies.regulation import effects, inference, matching, table

from .planted_regulation import REGULATES, TFS, WIDTH, build

RULES = table.Rules(n_permutations=2000)
ROWS = {f"TF{t}": t for t in range(TFS)}


@pytest.fixture(scope="module")
def world():
    return build()


@pytest.fixture(scope="module")
def arms(world):
    return world.arms()


def scored(world, arms):
    return table.tf_table(arms, world.coexpressed, ROWS, RULES)


def test_the_regulating_tfs_come_out_and_the_co_expressed_do_not(world, arms):
    found = scored(world, arms)
    own = found[found["kind"] == "TF"].set_index("tf")
    assert set(own.index[own["regulates"]]) == set(REGULATES)
    rest = own.loc[~own.index.isin(REGULATES)]
    assert (rest["auroc_unmatched"] > 0.8).all()  # without the control they would pass for regulators
    assert (rest["auroc_p"] > 0.05).all()
    assert (own["correlation_imbalance"].abs() < 0.25).all()
    assert not found[found["kind"] == "names dealt anew"]["regulates"].any()
    assert (own["reversed"] == own["targets"]).all()


def test_signs_are_those_that_were_planted(world, arms):
    pairs = table.pair_table(arms, world.coexpressed, ROWS, [f"g{i}" for i in range(len(world.cells.valid))])
    own = pairs[pairs["kind"] == "TF"]
    regulating = own[own["tf"].isin(REGULATES)]
    assert (regulating["known"] == regulating["found"]).all()
    assert (own[~own["tf"].isin(REGULATES)]["found"] == 1).all()
    summed = table.summary(scored(world, arms), pairs, RULES).set_index("kind")
    assert summed.loc["TF", "regulates"] == 0.5
    assert summed.loc["TF", "sign_agreement"] > summed.loc["TF", "sign_chance"]
    assert summed.loc["TF", "sign_p"] < 0.01
    lines = table.conclusion(scored(world, arms), summed.reset_index(), RULES)
    assert lines[0].startswith("3 of 6 TFs (50.0%)")
    assert lines[0].endswith("TF0, TF1, TF2.") or set(REGULATES) <= set(lines[0].replace(",", "").replace(".", "").split())


def test_a_feature_of_the_tf_alone_is_no_asymmetry(world):
    """The trap that the push `matched` avoids: a feature that is silent at the targets moves nothing from there."""
    sae = build().sae
    with torch.no_grad():
        sae.b_pre[0] = 1.15  # silent where the value is ordinary
        sae.W_enc[0, 0] = 1.0
    quiet = world.cells.streams.clone()
    quiet[:, TFS:, 0] = 1.15
    quiet[:, :TFS, 0] = 2.0
    cells = effects.SteeredCells(world.cells.predict, quiet, world.cells.valid, batch_size=64)
    codes = effects.gene_codes(sae, cells)
    coexpressed = world.regulons[5]
    p = {}
    for own in (False, True):
        design = arms_module.Design(n_random=0, n_dealt=0, own_code=own)
        (arm,) = arms_module.measure(cells, codes, sae, coexpressed, np.array([0]), world.regulons, np.array([1]), design)
        p[own] = table.tf_table([arm], world.coexpressed, ROWS, RULES)["asymmetry_p"][0]
    assert p[True] < 0.01
    assert p[False] > 0.05


def test_nothing_comes_of_a_network_whose_genes_do_not_see_each_other():
    world = build(strength=0.0)
    found = scored(world, world.arms())
    assert (found[["forward", "reverse"]] == 0).all(axis=None)
    assert (found[["asymmetry_p", "auroc_p"]] == 1).all(axis=None)
    assert not found["regulates"].any()
    assert (found["felt"] == 0).all()
    assert found["sign_agreement"].isna().all()


def test_effects_are_those_of_the_formula(world):
    """F and R of one cell, one token at a time, from the network's own edges."""
    cells, A = world.cells, world.edges
    code = effects.codes_of(effects.gene_codes(world.sae, cells), 0, np.array([0]))[:, 0]
    np.testing.assert_allclose(code, cells.streams[:, 0, 0], atol=1e-6)
    row = torch.eye(WIDTH)[0]
    alphas, targets = [-2.0, 5.0], np.array([7, 20])
    forward = effects.forward_effect(cells, 0, code, row, alphas)
    reverse = effects.reverse_effect(cells, 0, targets, code, row, alphas)
    for i, alpha in enumerate(alphas):
        value = cells.streams[..., 0].double().numpy()
        step = np.tanh(value + (alpha - 1) * code[:, None]) - np.tanh(value)
        np.testing.assert_allclose(forward[i, 6:], A[6:, 0] * step[:, 0].mean(), atol=2e-5)
        np.testing.assert_allclose(reverse[i], A[0, targets] * step[:, targets].mean(0), atol=2e-5)


def test_cells_where_the_feature_is_silent_are_left_out(world):
    code = np.array([0, 1, 0, 2, 0, 0], np.float32)
    row = torch.eye(WIDTH)[0]
    both = effects.forward_effect(world.cells, 0, code, row, [2.0])
    one = [effects.forward_effect(world.cells, 0, np.where(np.arange(6) == i, code, 0), row, [2.0]) for i in (1, 3)]
    np.testing.assert_allclose(both, np.mean(one, axis=0), atol=1e-6)
    assert (effects.forward_effect(world.cells, 0, 0 * code, row, [2.0]) == 0).all()
    assert (effects.forward_effect(world.cells, 0, code, row, [1.0]) == 0).all()


def test_arms_survive_the_disk(arms, tmp_path):
    own = [arm for arm in arms if arm.regulon.tf == "TF1"]
    arms_module.save(own, tmp_path / "tf.npz")
    for one, other in zip(own, arms_module.load(tmp_path / "tf.npz"), strict=True):
        assert (one.kind, one.draw, one.regulon.tf, one.regulon.column) == (
            other.kind, other.draw, other.regulon.tf, other.regulon.column,
        )  # fmt: skip
        for name in ("reversed", "known", "forward", "reverse"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_is_rounding_counts_as_no_effect(world):
    """A network whose predictions differ with the size of the batch, as those of some kernels do."""
    small = effects.SteeredCells(
        lambda stream, read: stream[:, read, 0] + 1e-6 * len(stream), world.cells.streams, world.cells.valid, batch_size=4
    )
    code = np.ones(6, np.float32)
    found = effects.forward_effect(small, 0, code, torch.eye(WIDTH)[0], [2.0, 5.0])
    assert (found[:, 1:] == 0).all()
    np.testing.assert_allclose(found[:, 0], [1, 4], atol=1e-4)


def test_no_target_is_a_control(world, arms, monkeypatch):
    asked, match = [], table.matched_controls
    monkeypatch.setattr(table, "matched_controls", lambda *args: asked.append(args[2:4]) or match(*args))
    scored(world, arms)
    for arm, (targets, candidates) in zip(arms, asked, strict=True):
        taken = {*arm.regulon.targets, *arm.known, arm.regulon.column}
        assert targets.tolist() == arm.regulon.targets.tolist()
        assert not taken & set(candidates)
        assert len(taken) + len(candidates) == len(world.cells.valid)


def test_dealt_targets_are_regulated_but_not_by_the_tf(world):
    regulon = world.regulons[0]
    dealt = arms_module.deal(world.regulons, regulon, np.random.default_rng(0))
    assert len(dealt.targets) == len(regulon.targets)
    assert not set(dealt.targets) & {*regulon.targets, regulon.column}
    signs = {int(g): int(s) for one in world.regulons[1:] for g, s in zip(one.targets, one.signs, strict=True)}
    assert [signs[int(g)] for g in dealt.targets] == dealt.signs.tolist()
    others = [Regulon("B", 1, np.array([0, 7, 8, 9]), np.ones(4, np.int8))]
    own = Regulon("A", 0, np.array([8]), np.ones(1, np.int8))
    assert arms_module.deal(others, own, np.random.default_rng(0)).targets[0] in (7, 9)


def test_passes_are_counted(world):
    """What is told before it is paid is what is paid."""
    ran = {}

    def predict(stream, read):
        ran[len(read)] = ran.get(len(read), 0) + len(stream)
        return world.cells.predict(stream, read)

    cells = effects.SteeredCells(predict, world.cells.streams, world.cells.valid, batch_size=7)
    codes = effects.gene_codes(world.sae, cells)
    assert cells.rounding < 1e-4
    ran.clear()
    design, regulon = arms_module.Design(max_targets=5), world.regulons[0]
    arms_module.measure(cells, codes, world.sae, regulon, np.array([0]), world.regulons, np.array([1]), design)
    every, one = arms_module.passes(regulon, 18, firing=len(cells.streams), design=design)
    assert ran[len(cells.valid)] == every
    assert ran[1] == one + 3 * len(cells.streams)  # the unsteered cells, once an arm


def test_sign_flip_is_the_exact_test():
    d = np.array([0.3, 0.1, -0.05, 0.2, 0.4])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    exact = ((flips @ d) / 5 >= d.mean() - 1e-12).mean()
    found = inference.sign_flip(d, 20_000, np.random.default_rng(0))
    assert found.value == pytest.approx(d.mean())
    assert found.p == pytest.approx(exact, abs=0.01)
    assert inference.sign_flip(-d, 2000, np.random.default_rng(0)).p > 0.5


def test_p_values_are_uniform_where_there_is_nothing():
    rng = np.random.default_rng(1)
    flip, rank = [], []
    controls = 15 + np.arange(45).reshape(15, 3)
    controls[:5, 1:] = -1  # sets of two sizes
    for _ in range(200):
        flip.append(inference.sign_flip(rng.standard_normal(15), 200, rng).p)
        size = rng.random(60)
        rank.append(inference.matched_auroc(size, np.arange(15), controls, 200, rng).p)
    for p in (flip, rank):
        assert stats.kstest(p, "uniform").pvalue > 0.01


def test_auroc_within_one_set_and_over_all_is_mann_and_whitney():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 6, 12), rng.integers(0, 5, 30)
    oracle = stats.mannwhitneyu(a, b).statistic / (12 * 30)
    assert inference.auroc(a, b) == pytest.approx(oracle)
    size = np.concatenate([a[:1], b])
    found = inference.matched_auroc(size, np.array([0]), np.arange(1, 31)[None], 10, rng)
    assert found.value == pytest.approx(inference.auroc(a[:1], b))


def test_agreement_is_measured_against_dealing_signs_within_tfs():
    rng = np.random.default_rng(3)
    groups = np.repeat([0, 1], 20)
    known = np.concatenate([np.ones(20), -np.ones(20)])  # each TF has one sign: nothing to be told apart within it
    same = inference.sign_agreement(known, known, groups, 500, rng)
    assert (same.share, same.chance, same.p) == (1, 1, 1)
    mixed = np.where(rng.random(40) < 0.5, 1, -1)
    told = inference.sign_agreement(mixed, mixed, groups, 500, rng)
    assert told.p < 0.01
    assert told.chance < 0.7
    one, other = np.concatenate([mixed, [0, 1]]), np.concatenate([mixed, [1, 0]])
    with_zeros = inference.sign_agreement(one, other, np.repeat(0, 42), 50, rng)
    assert with_zeros.n == 40
    assert inference.sign_agreement(np.zeros(3), np.ones(3), np.zeros(3), 10, rng).n == 0


def test_co_expression_is_pearsons(monkeypatch):
    monkeypatch.setattr(matching, "CHUNK", 7)
    rng = np.random.default_rng(4)
    counts = rng.poisson(rng.gamma(1, 3, (40, 12)))
    counts[:, 5] = 0
    valid, cells = np.array([0, 2, 3, 5, 9]), np.arange(0, 40, 2)
    found = matching.coexpression(sp.csr_matrix(counts.astype(np.float32)), valid, cells, np.array([1, 4]))
    some = counts[cells]
    values = np.log1p(some / some.sum(1, keepdims=True) * 1e4)[:, valid]
    with np.errstate(invalid="ignore"):
        oracle = np.nan_to_num(np.corrcoef(values.T)[[1, 4]])
    np.testing.assert_allclose(found.correlation, oracle, atol=1e-9)
    np.testing.assert_allclose(found.expression, np.log(some[:, valid].mean(0) + 0.01))


def test_controls_are_the_nearest_and_shared_by_no_two():
    rng = np.random.default_rng(5)
    expression, correlation = rng.random(50), rng.random(50)
    targets, candidates = np.array([3, 8]), np.arange(10, 50)
    found = matching.matched_controls(expression, correlation, targets, candidates, 2)
    assert len(set(found.ravel()) - {-1}) == (found >= 0).sum() >= 3
    points = np.stack([expression, correlation], 1)
    points /= points[[3, 8, *candidates]].std(0)
    for row, target in zip(found, targets, strict=True):
        apart = np.abs(points[candidates] - points[target])
        near = candidates[(apart <= matching.CALIPER).all(1)]
        assert set(row) - {-1} <= set(near)
        assert row[0] in near[np.argsort(np.square(points[near] - points[target]).sum(1))[:2]]
    far = matching.matched_controls(expression + 9 * (np.arange(50) >= 10), correlation, targets, candidates, 3)
    assert (far == -1).all()
    assert abs(matching.imbalance(correlation, targets, found)) < 0.5
    assert matching.imbalance(np.arange(4.0), np.array([2, 3]), np.array([[0, 1], [-1, 0]])) == pytest.approx(2.25 / 0.5)
    assert np.isnan(matching.imbalance(correlation, targets, far))
    assert np.isnan(inference.matched_auroc(expression, targets, far, 10, rng).p)
