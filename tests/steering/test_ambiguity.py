"""Stand-ins: what they are by their definition, and a planted recipe whose groups must be found where its features are not."""

from __future__ import annotations

import numpy as np
import pytest

from steerpipe.steering.ambiguity import stand_ins
from steerpipe.steering.lasso import LatentProblem

D, MATES = 64, 4


def planted(seed, *, clustered, scatter=0.2, n_features=512, n=40):
    """Return a problem whose target is a sparse recipe away, and its five features.

    Decoder rows come in clusters of four of cosine .96, or at random. The planted feature of a cluster is its second
    largest: the L1 penalty is cheaper on the largest, which takes its credit.
    """
    rng = np.random.default_rng(seed)
    cluster = np.arange(n_features) // MATES
    centres = rng.standard_normal((n_features // MATES, D))
    W = rng.standard_normal((n_features, D)) * (scatter if clustered else 1.0) + clustered * centres[cluster]
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    sizes = rng.lognormal(0, 0.3, n_features)
    z = sizes * rng.gamma(4, 0.25, (n, n_features))
    chosen = rng.choice(n_features // MATES, 5, replace=False)
    features = [MATES * c + int(np.argsort(-z[:, MATES * c : MATES * (c + 1)].mean(0))[1]) for c in chosen]
    theta = np.zeros(n_features)
    theta[features] = rng.choice([-1, 1], 5) * rng.uniform(0.7, 1.3, 5)
    mu = ((z * theta) @ W).mean(0)
    return LatentProblem(z, W, np.zeros((n, D)) + 0.02 * rng.standard_normal((n, D)), mu), set(features)


def groups_of(table):
    return [set(part["feature"]) | set().union(*part["stand_ins"]) for _, part in table.groupby("group")]


def recovery(clustered, ratio, **options):
    """Feature recall, group recall, group precision, mean and largest group, over ten planted recipes."""
    rows = []
    for seed in range(10):
        problem, true = planted(seed, clustered=clustered)
        table = stand_ins(problem, problem.solve(ratio * problem.lam_max), **options)
        groups = groups_of(table)
        found = set().union(*groups)
        sizes = [len(group) for group in groups]
        precise = np.mean([bool(group & true) for group in groups])
        rows.append((len(true & set(table["feature"])) / 5, len(true & found) / 5, precise, np.mean(sizes), max(sizes)))
    return np.mean(rows, axis=0)


def test_groups_recover_what_features_do_not():
    features, groups, precision, mean, largest = recovery(True, 0.1, tolerance=0.05)
    assert features < 0.7
    assert groups >= 0.8
    assert precision > 0.5
    assert mean < 2.5
    assert largest <= MATES


def test_with_nothing_to_confuse_groups_are_single_features():
    features, groups, _, mean, _ = recovery(False, 0.1, tolerance=0.05)
    assert features >= 0.9
    assert groups >= features
    assert mean < 1.1


def test_the_table_is_its_definition():
    problem, _ = planted(3, clustered=True)
    fit = problem.solve(0.1 * problem.lam_max)
    table = stand_ins(problem, fit, tolerance=0.05)
    assert set(table["feature"]) == set(np.flatnonzero(fit.theta))
    assert (np.diff(table["theta"].abs()) <= 0).all()
    X = problem.z.T * problem.W
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    assert table["replaceable"].any()
    assert not table["replaceable"].all()
    for row in table.itertuples():
        free = np.arange(len(fit.theta)) != row.feature
        fresh = LatentProblem(problem.z, problem.W, -problem.gap_vectors, np.zeros(D), free).solve(fit.lam)
        assert row.without == pytest.approx(fresh.objective / fit.objective - 1, abs=1e-6)
        assert row.replaceable == (row.without <= 0.05)
        near = np.abs(X @ X[row.feature]) >= 0.9
        assert set(row.correlated) == set(np.flatnonzero(near & free))
        assert bool(row.stand_ins) <= row.replaceable
        assert row.feature not in row.stand_ins
    assert table["group"].iloc[0] == 0
    assert set(table["group"]) == set(range(table["group"].max() + 1))
    covered = groups_of(table)
    assert sum(len(group) for group in covered) == len(set().union(*covered))  # no feature is in two


def test_every_copy_of_a_column_is_a_stand_in_even_of_opposite_sign(rng):
    W = np.linalg.qr(rng.standard_normal((12, 12)))[0][:6]
    W = np.concatenate([W, W[:1], -W[:1]])  # 6 and 7 are copies of 0
    z = np.array([[1.1, 1, 1, 1, 1, 1, 1.0999, 1.0998]])
    problem = LatentProblem(z, W, np.zeros((1, 12)), 2 * W[0] + W[1])
    fit = problem.solve(0.05 * problem.lam_max)
    assert set(np.flatnonzero(fit.theta)) == {0, 1}
    table = stand_ins(problem, fit).set_index("feature")
    assert table.loc[0, "stand_ins"] == [6, 7]
    assert table.loc[0, "correlated"] == [6, 7]
    assert table.loc[0, "without"] == pytest.approx(0, abs=1e-4)
    assert not table.loc[1, "replaceable"]
    assert table.loc[1, "stand_ins"] == []
    assert table["group"].tolist() == [0, 1]


def test_recruited_features_that_share_a_stand_in_are_one_group(rng):
    """Two features at right angles and a third between them: without either, the third takes over."""
    W = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [np.sqrt(0.5), np.sqrt(0.5), 0.0], [0.0, 0.0, 1.0]])
    z = np.array([[1.0, 1.0, 0.99 * np.sqrt(0.5), 1.0]])
    problem = LatentProblem(z, W, np.zeros((1, 3)), np.array([1.0, 1.0, 0.8]))
    fit = problem.solve(0.02 * problem.lam_max)
    assert set(np.flatnonzero(fit.theta)) == {0, 1, 3}
    table = stand_ins(problem, fit, tolerance=2.0).set_index("feature")
    assert table.loc[0, "stand_ins"] == table.loc[1, "stand_ins"] == [2]
    assert table.loc[0, "group"] == table.loc[1, "group"] != table.loc[3, "group"]


def test_an_empty_recipe_has_an_empty_table():
    problem, _ = planted(0, clustered=False)
    table = stand_ins(problem, problem.solve(2 * problem.lam_max))
    assert len(table) == 0
    assert list(table) == ["feature", "theta", "group", "correlated", "without", "replaceable", "stand_ins"]
