"""Scores of a population, on planted truth: contraction, a true shift, no difference, donors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from steerpipe.errors import SteerError
from steerpipe.evaluate.population import SCORES, Population, energy_distance, fit_probe, permutation_p

D = 20
SHIFT = np.r_[np.full(5, 1.2), np.zeros(D - 5)]


def cells(rng, n, at=0.0, width=D):
    return rng.normal(size=(n, width)) + at


def planted(rng, n=40, m=50, shift=SHIFT, **groups):
    probe = fit_probe(cells(rng, 80), cells(rng, 80, shift))
    return Population(cells(rng, n), cells(rng, m, shift), probe, **groups)


def test_energy_distance_is_the_double_loop(rng):
    x, y = cells(rng, 7), cells(rng, 5, 1.0)
    cross = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    within = [np.mean([np.linalg.norm(a - b) for i, a in enumerate(g) for j, b in enumerate(g) if i != j]) for g in (x, y)]
    assert energy_distance(x, y) == pytest.approx(2 * cross - sum(within), abs=1e-12)


def test_energy_distance_is_symmetric_and_blind_to_moves_of_the_whole_space(rng):
    x, y = cells(rng, 12), cells(rng, 9, 0.7)
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    value = energy_distance(x, y)
    assert energy_distance(y, x) == pytest.approx(value, abs=1e-12)
    assert energy_distance(x @ rotation + 1000, y @ rotation + 1000) == pytest.approx(value, abs=1e-9)
    assert energy_distance(3 * x, 3 * y) == pytest.approx(3 * value, abs=1e-12)


def test_energy_distance_is_unbiased_and_grows_with_the_shift(rng):
    same = np.array([energy_distance(cells(rng, 8), cells(rng, 11)) for _ in range(1500)])
    assert abs(same.mean()) < 4 * same.std() / np.sqrt(len(same)) < 0.05  # with self pairs it would be 0.9
    x, y = cells(rng, 30), cells(rng, 30)
    assert np.all(np.diff([energy_distance(x, y + step) for step in (0.5, 1, 2, 4)]) > 0)


def test_every_score_is_registered_and_returned_in_order(rng):
    population = planted(rng)
    names = ["edistance", "gap", "orthogonal", "probe", "probe_share", "c2st", "spread", "nearest"]
    after = population.before + 0.5 * SHIFT
    intervals = population.intervals(after, 200)
    assert list(SCORES) == list(population.values(after)) == list(intervals) == list(population.floor()) == names
    for name, value in population.values(after).items():
        assert SCORES[name].name == name
        assert SCORES[name].about
        assert format(value, SCORES[name].format)
        assert intervals[name][0] - 1e-9 <= value <= intervals[name][1] + 1e-9, name


def test_a_no_op_scores_nothing(rng):
    population = planted(rng)
    values = population.values(population.before)
    idle = {"edistance": 0, "gap": 0, "orthogonal": 0, "spread": 1, "nearest": 0}
    assert {name: values[name] for name in idle} == pytest.approx(idle, abs=1e-12)
    assert values["c2st"] > 0.9
    intervals = population.intervals(population.before, 100)
    assert all(intervals[name] == pytest.approx((value, value), abs=1e-12) for name, value in idle.items())


def test_a_contraction_wins_nothing(rng):
    population = planted(rng, 200, 200)
    mean = population.before.mean(0)
    idle, values = population.values(population.before), population.values(mean + (population.before - mean) / 2)
    assert values["edistance"] > 0
    assert values["gap"] == pytest.approx(0, abs=1e-12)
    assert values["spread"] == pytest.approx(0.25)
    assert values["probe"] <= idle["probe"]
    assert values["c2st"] >= idle["c2st"] - 0.02


def test_draws_of_the_target_arrive(rng):
    """In place of the steered cells, over several draws: every score is at what arrival is, and so is the floor."""
    populations = [planted(rng, 60, 60) for _ in range(8)]
    rows = [population.values(cells(rng, 60, SHIFT)) for population in populations]
    mean = {name: np.mean([row[name] for row in rows]) for name in SCORES}
    real = np.mean([population.probe.p_target(population.target).mean() for population in populations])
    assert mean["edistance"] == pytest.approx(-1, abs=0.03)
    assert mean["gap"] == pytest.approx(1, abs=0.1)
    assert mean["c2st"] == pytest.approx(0.5, abs=0.07)
    assert mean["spread"] == pytest.approx(1, abs=0.1)
    assert mean["probe"] == pytest.approx(real, abs=0.03)
    floors = [population.floor() for population in populations[:3]]
    floor = {name: np.mean([row[name] for row in floors]) for name in SCORES}
    assert floor["edistance"] == pytest.approx(-1, abs=0.03)
    assert floor["c2st"] == pytest.approx(0.5, abs=0.1)
    assert floor["probe"] == pytest.approx(np.mean([p.probe.p_target(p.target).mean() for p in populations[:3]]), abs=0.02)


def test_mean_shift_is_split_along_and_across_the_way(rng):
    population = planted(rng)
    way = population.target.mean(0) - population.before.mean(0)
    across = rng.normal(size=D)
    across -= (across @ way) / (way @ way) * way
    across *= np.linalg.norm(way) / np.linalg.norm(across)
    values = population.values(population.before + 0.6 * way - 0.3 * across)
    assert (values["gap"], values["orthogonal"]) == pytest.approx((0.6, 0.3))


def test_nearest_and_edistance_are_the_formulas(rng):
    population = planted(rng, 15, 18)
    before, target, after = population.before, population.target, population.before * 0.9 + 0.4
    near = [np.mean([np.sort(np.linalg.norm(target - cell, axis=1))[:10].mean() for cell in side]) for side in (before, after)]
    values = population.values(after)
    assert values["nearest"] == pytest.approx(near[1] / near[0] - 1)
    assert values["edistance"] == pytest.approx(energy_distance(after, target) / energy_distance(before, target) - 1)


def test_a_contrast_without_a_difference_stays_finite(rng):
    """Half of such contrasts have a negative E-distance between the sides; a no-op is 0 in all of them."""
    for _ in range(10):
        population = planted(rng, 20, 20, np.zeros(D))
        assert population.values(population.before)["edistance"] == 0
        assert np.isfinite(list(population.values(population.before + 0.1).values())).all()
        assert population.values(population.before + 1.0)["edistance"] > 1
    alike = Population(population.target, population.target, population.probe)
    assert np.isfinite(list(alike.values(alike.before).values())).all()


@pytest.mark.parametrize("width", [12, 90])
def test_probe_is_that_of_scikit_learn(rng, width):
    """Fewer dimensions than cells, and more: the rotation changes nothing."""
    source, target = cells(rng, 40, width=width), cells(rng, 25, 0.4, width)
    probe = fit_probe(3 * source + 5, 3 * target + 5, seed=3)
    labels = np.repeat([0, 1], [40, 25])

    def scoring(model, x, y):
        return -log_loss(y, model.predict_proba(x), sample_weight=compute_sample_weight("balanced", y))

    plain = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=[1e-4, 1e-3, 1e-2, 0.1, 1, 10],
            cv=StratifiedKFold(5, shuffle=True, random_state=3),
            class_weight="balanced",
            scoring=scoring,
            l1_ratios=(0.0,),
            tol=1e-6,
            use_legacy_attributes=False,
        ),
    ).fit(np.vstack([source, target]), labels)
    points = cells(rng, 30, 0.2, width)
    assert probe.strength == plain[-1].C_
    np.testing.assert_allclose(probe.p_target(3 * points + 5), plain.predict_proba(points)[:, 1], atol=1e-3)


@pytest.mark.parametrize("width", [12, 90])
def test_c2st_is_that_of_scikit_learn(rng, width):
    probe = fit_probe(cells(rng, 20, width=width), cells(rng, 20, 0.5, width))
    population = Population(cells(rng, 30, width=width), cells(rng, 24, 0.5, width), probe)
    after = population.before * 0.8 + 0.3
    points, labels = np.vstack([after, population.target]), np.repeat([1, 0], [30, 24])
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scaled = StandardScaler().fit_transform(points)
    plain = cross_val_predict(LogisticRegression(C=0.1), scaled, labels, cv=folds, method="decision_function")
    assert population.values(after)["c2st"] == pytest.approx(roc_auc_score(labels, plain), abs=3 / (30 * 24))


def test_c2st_tells_no_two_draws_apart(rng):
    population = planted(rng, 40, 40, np.zeros(D))
    drawn = [population.values(cells(rng, 40))["c2st"] for _ in range(30)]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.05)


def test_probe_share_counts_cells(rng):
    population = planted(rng)
    after = population.before.copy()
    after[:10] += 20 * SHIFT
    after[10:] -= 20 * SHIFT
    values = population.values(after)
    assert values["probe_share"] == pytest.approx(10 / 40)
    assert values["probe"] == pytest.approx(10 / 40, abs=1e-6)


@pytest.mark.parametrize("donors", [False, True])
def test_intervals_cover_the_truth(donors):
    """Cells that steering moves along 60 % of the way with noise; the truth comes from 4000 cells."""
    rng = np.random.default_rng(4)
    probe = fit_probe(cells(rng, 100), cells(rng, 100, SHIFT))
    names = ("edistance", "gap", "probe", "spread")

    def draw(n, rng):
        if not donors:
            noise, groups = (np.zeros((n, D)) for _ in range(2)), None
        else:
            groups = np.arange(n) % (n // 5)
            noise = (0.4 * rng.normal(size=(n // 5, D))[groups] for _ in range(2))
        source, target = (cells(rng, n) + offset for offset in noise)
        after = source + 0.6 * SHIFT + 0.6 * cells(rng, n)
        names = {} if groups is None else {"groups_before": groups, "groups_target": 1000 + groups}
        return Population(source, target + SHIFT, probe, **names), after

    truth = {name: np.mean([p.values(a)[name] for p, a in (draw(500, rng) for _ in range(4))]) for name in names}
    covered = dict.fromkeys(names, 0)
    for i in range(100):
        population, after = draw(100, rng)
        assert population.resampled == ("donors" if donors else "cells")
        for name, (lo, hi) in population.intervals(after, 200, seed=i).items():
            if name in names:
                covered[name] += lo <= truth[name] <= hi
    assert all(85 <= n <= 100 for n in covered.values()), covered


def test_donors_are_resampled_as_blocks(rng):
    """Donor c's cells alone move: the gap is then a multiple of a donor's share, and three donors make few values."""
    groups = np.repeat(["a", "b", "c"], 10)
    before, target = cells(rng, 30), cells(rng, 30, SHIFT)
    probe = fit_probe(cells(rng, 20), cells(rng, 20, SHIFT))
    by_donor = Population(before, target, probe, groups, groups)
    after = before + 50 * SHIFT * (groups == "c")[:, None]
    lo, hi = by_donor.intervals(after, 500)["probe_share"]
    share = by_donor.probe.p_target(before) > 0.5
    a_and_b = [share[groups == g].mean() for g in "ab"]
    assert lo == pytest.approx(min(a_and_b))  # a draw of one donor three times
    assert hi == 1
    by_cell = Population(before, target, probe)
    narrow = by_cell.intervals(after, 500)["probe_share"]
    assert (by_donor.resampled, by_cell.resampled) == ("donors", "cells")
    assert narrow[1] - narrow[0] < 0.7 * (hi - lo)
    assert by_donor.values(after) == pytest.approx(by_cell.values(after))


def test_donors_of_both_sides_are_drawn_together_and_need_three(rng):
    groups = np.repeat(["a", "b", "c", "d"], 10)
    offsets = {g: 3 * rng.normal(size=D) for g in "abcd"}
    offset = np.array([offsets[g] for g in groups])
    probe = fit_probe(cells(rng, 20), cells(rng, 20, SHIFT))
    before, target = cells(rng, 40) + offset, cells(rng, 40, SHIFT) + offset
    paired = Population(before, target, probe, groups, groups)
    apart = Population(before, target, probe, groups, np.char.add(groups, "'"))
    after = before + 0.5 * SHIFT
    width = {name: np.diff(p.intervals(after, 500)["gap"])[0] for name, p in (("paired", paired), ("apart", apart))}
    assert width["paired"] < 0.5 * width["apart"]  # a donor's offset is on both sides and cancels
    two = np.where(groups == "a", "a", "b")
    assert Population(before, target, probe, groups, two).resampled == "cells"
    assert Population(before, target, probe, groups).resampled == "cells"


def test_small_groups_warn_of_nothing_and_bad_input_is_one_line(rng):
    probe = fit_probe(cells(rng, 3), cells(rng, 2, 1.0))
    small = Population(cells(rng, 2), cells(rng, 3), probe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.intervals(small.before + 1, 100)
    assert np.isnan(list(small.floor().values())).all()
    with pytest.raises(SteerError, match="at least 2 cells"):
        Population(cells(rng, 1), cells(rng, 3), probe)
    with pytest.raises(SteerError, match="dimensions"):
        Population(cells(rng, 4), cells(rng, 3)[:, :5], probe)
    with pytest.raises(SteerError, match="in their order"):
        small.values(cells(rng, 3))
    with pytest.raises(SteerError, match="not finite"):
        small.values(small.before * np.nan)
    with pytest.raises(SteerError, match="donors"):
        Population(cells(rng, 4), cells(rng, 3), probe, np.array(["a"]))


def test_permutation_p_counts_those_as_good_in_the_scores_direction():
    null = np.array([-0.3, -0.1, 0.0, 0.2, np.nan])
    assert permutation_p(-0.1, null, "lower").p == pytest.approx(3 / 5)
    assert permutation_p(0.1, null, "higher").p == pytest.approx(2 / 5)
    assert permutation_p(-1.0, null, "lower").p == pytest.approx(1 / 5)
    assert permutation_p(0.9, np.array([0.5, 1.05, 1.2, 0.95]), "near_one").p == pytest.approx(3 / 5)
    result = permutation_p(0.0, null, "lower")
    assert result.n == 4
    assert result.mean == pytest.approx(-0.05)
    assert (result.lo, result.hi) == pytest.approx(tuple(np.percentile(null[:4], [2.5, 97.5])))
    assert np.isnan(permutation_p(np.nan, null, "lower").p)
    assert np.isnan(permutation_p(1.0, np.full(3, np.nan), "higher").p)
    directions = {name: score.better for name, score in SCORES.items()}
    assert directions.pop("spread") == "near_one"
    assert {name for name, better in directions.items() if better == "higher"} == {"gap", "probe", "probe_share"}
    with pytest.raises(SteerError, match="near_one"):
        permutation_p(0.0, null, "nearest_one")


def test_permutation_p_is_uniform_where_nothing_differs(rng):
    draws = rng.normal(size=(2000, 20))
    p = np.array([permutation_p(row[0], row[1:], "lower").p for row in draws])
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.02)
