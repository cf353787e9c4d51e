"""Units of steering on planted targets, which need exactly one, four, a dense set of features, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.errors import SteerError
from steerpipe.evaluate.granularity import (
    best_feature,
    best_group,
    compare_curves,
    curve_fit,
    first_features,
    gap_closed,
    n_for_half,
    off_target,
    random_groups,
    ranking,
    steady,
)
from steerpipe.steering.lasso import LatentProblem
from steerpipe.studies.granularity.table import RULE, verdict

from .planted_granularity import WIDTH, rows_of

FOUR = [5, 17, 40, 71]


def direction(features, sizes):
    out = np.zeros(WIDTH)
    out[list(features)] = sizes
    return out


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(3)
    return rows_of(0.35 * rng.standard_normal(WIDTH))


def test_a_target_of_one_feature():
    row, units, _ = rows_of(direction([5], 2.0))
    assert row["verdict"] == "one feature"
    assert row["n50"] == 1
    assert row["single_share"] > 0.9
    assert units.loc[units["unit"] == "best feature", "p"].item() <= 0.05


def test_a_target_of_four_features():
    row, units, _ = rows_of(direction(FOUR, 1.2))
    assert row["verdict"] == "a step"
    assert 1.5 < row["n50"] <= 2.5
    assert row["step_at"] == pytest.approx(4, rel=0.25)
    share = units.set_index("unit")["gap"] / row["dense_gap"]
    np.testing.assert_allclose(share[["1 features", "2 features", "4 features"]], [0.25, 0.5, 1], atol=0.08)
    assert row["n50_random"] > 20


def test_a_target_of_a_module():
    row, _, _ = rows_of(direction(FOUR, 1.2), modules=[np.array(FOUR), np.arange(20, 28)])
    assert row["verdict"] == "a module"
    assert (row["module_n"], row["component_n"]) == (4, 4)
    assert row["module_share"] > 0.9
    other, _, _ = rows_of(direction(FOUR, 1.2), modules=[np.arange(80, 84), np.arange(20, 28)])
    assert other["module_share"] < 0.3
    assert other["verdict"] == "a step"


def test_a_feature_that_is_all_but_silent_is_no_unit():
    """A theta of thousands would bring the fit's cells to the target, and do nothing to the held-out ones."""
    row, units, _ = rows_of(direction([90], 2.0), silent=[90])
    assert row["single_share"] < 0.2
    assert row["verdict"] != "one feature"
    assert units["gap"].between(-0.5, 1.5).all()


def test_steady_features(rng):
    zbar = np.column_stack([np.ones(30) + 0.1 * rng.standard_normal(30), rng.standard_normal(30), np.zeros(30)])
    assert steady(zbar).tolist() == [True, False, False]


def test_a_dense_target_is_a_continuum(dense):
    row, units, random = dense
    assert row["verdict"] == "a continuum"
    assert row["n50"] > 8
    assert row["smooth_error"] < row["step_error"]
    at = units[units["unit"] == "8 features"]["gap"].item()
    drawn = random[(random["unit"] == "features") & (random["n"] == 8)]["gap"]
    assert at > drawn.max()  # ranked by the path, not at random


@pytest.mark.parametrize("seed", [0, 1])
def test_no_difference_is_nothing(seed):
    row, units, _ = rows_of(np.zeros(WIDTH), seed=seed)
    assert row["dense_p"] > 0.05
    assert row["verdict"] == "nothing"
    assert units.set_index("unit").loc["best feature", "p"] > 0.05


def test_the_verdict_of_a_difference_that_the_null_has_is_nothing(dense):
    row, _, _ = dense
    assert verdict(row | {"dense_p": 0.06}) == "nothing"
    assert verdict(row | {"dense_gap": -0.1}) == "nothing"
    assert verdict(row | {"n50": 8.0}) == "a few features"
    assert verdict(row | {"single_share": 0.5}) == "one feature"
    assert verdict(row | {"module_share": 0.9, "module_p": 0.2}) == "a continuum"
    assert "0.05" in RULE


def problem(rng, n=20, F=12, D=6, **options):
    zbar, W = rng.standard_normal((n, F)) + 1, rng.standard_normal((F, D))
    return LatentProblem(zbar, W, rng.standard_normal((n, D)), rng.standard_normal(D), **options)


def test_the_best_feature_is_the_best(rng):
    one = problem(rng)
    theta = best_feature(one)
    number, same = best_group(one, [np.array([f]) for f in range(12)])
    assert np.flatnonzero(theta).tolist() == [number]
    np.testing.assert_allclose(theta, same)
    losses = []
    for f in range(12):
        unit = np.zeros(12)
        unit[f] = 1
        losses.append(one.loss(one.refit(unit)))
    assert one.loss(theta) == pytest.approx(min(losses))
    bounded = problem(np.random.default_rng(0), bounds=(-0.01, 0.01))
    assert np.abs(best_feature(bounded)).max() <= 0.01


def test_a_common_theta_is_least_squares(rng):
    one, group = problem(rng), np.array([1, 4, 7])
    _, theta = best_group(one, [group])
    assert len(set(theta[group])) == 1
    for step in (-1e-3, 1e-3):
        moved = theta.copy()
        moved[group] += step
        assert one.loss(moved) > one.loss(theta)


def test_the_path_ranks_and_its_refit_never_gets_worse(rng):
    one = problem(rng, D=10)
    order = ranking(one)
    assert len(set(order)) == len(order) >= 8
    assert one.solve(0.999 * one.lam_max).theta[order[0]] != 0
    losses = [one.loss(first_features(one, order, n)) for n in range(1, len(order) + 1)]
    assert (np.diff(losses) <= 1e-9).all()


def test_random_groups_have_the_sizes_and_no_feature_twice(rng):
    activity = rng.lognormal(0, 1, 200)
    candidates = activity > 0.2
    groups = [np.flatnonzero(candidates)[:5], np.flatnonzero(candidates)[5:30]]
    drawn = random_groups(groups, activity, candidates, rng)
    assert [len(set(one)) for one in drawn] == [5, 25]
    assert candidates[np.concatenate(drawn)].all()
    for group, one in zip(groups, drawn, strict=True):
        assert np.abs(np.log(activity[group] / activity[one])).max() < 1.5


def test_gap_and_off_target():
    way = np.array([2.0, 0, 0])
    others = np.array([[1.0, 2, 0], [0, 0, 4.0], [3.0, 0, 0]])  # the last has no way of its own
    assert gap_closed(np.array([1.0, 5, 5]), way) == 0.5
    assert off_target(np.array([7.0, 0, 0]), way, others) == 0
    assert off_target(np.array([0.0, 1, -4]), way, others) == pytest.approx((0.5 + 1) / 2)
    assert np.isnan(off_target(way, way, others[2:]))


def test_half_of_the_gap():
    n = np.array([1.0, 2, 4, 8])
    assert n_for_half(n, np.array([0.1, 0.2, 0.5, 0.8]), 1.0) == 4
    assert n_for_half(n, np.array([0.6, 0.7, 0.8, 0.8]), 1.0) == 1
    assert n_for_half(n, np.array([0.1, 0.2, 0.3, 0.4]), 1.0) == np.inf
    assert n_for_half(n, np.array([0.1, 0.2, 0.3, 0.4]), 0.5) == pytest.approx(2 * 2**0.5)


@pytest.mark.parametrize("kinked", [True, False])
def test_a_kink_is_told_from_a_smooth_curve(kinked, rng):
    n = np.array([1.0, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
    fits = []
    for at in (3, 6, 8, 12, 16):
        share = np.minimum(n / at, 1) if kinked else 1 - np.exp(-n / at)
        fits.append(curve_fit(n, share + 0.01 * rng.standard_normal(len(n))))
    step, smooth = (np.array([getattr(fit, name) for fit in fits]) for name in ("step", "smooth"))
    assert ((step < smooth) == kinked).all()
    assert compare_curves(step, smooth) < 0.1
    assert np.isnan(compare_curves(step[:3], smooth[:3]))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("granularity.labels=[B]", "two labels at least"),
        ("granularity.sizes=[4,2,1,8]", "ascending numbers"),
        ("granularity.n_random=0", "granularity.n_random"),
    ],
)
def test_settings_that_are_not_allowed(word, message):
    with pytest.raises(SteerError, match=message):
        compose(word)
