"""Adapters against the exact lasso, by hand, and on planted perturbations."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from steerpipe.errors import SteerError
from steerpipe.steering.adapters import NETWORKS, Adapter, Tasks, lam_max, made, objective, recipes, soft, train
from steerpipe.steering.lasso import LatentProblem

F, D = 48, 24


def decoder(seed: int = 0) -> np.ndarray:
    W = np.random.default_rng(seed).standard_normal((F, D))
    return W * (1 + np.arange(F) % 3)[:, None]  # rows of different lengths


def some_tasks(rng: np.random.Generator, n: int, share: float = 0.1) -> Tasks:
    """Gaps of a few features, in sources whose codes differ and have both signs, one feature being silent."""
    W = decoder()
    zbar = np.exp(np.random.default_rng(1).standard_normal(F)) * (1 + 0.2 * rng.standard_normal((n, F)))
    zbar[:, ::5] *= -1
    zbar[:, 7] = 0
    theta = rng.standard_normal((n, F)) * (np.random.default_rng(2).random(F) < 0.15)
    gaps = (theta * zbar) @ W + 0.05 * rng.standard_normal((n, D))
    inputs = gaps / np.linalg.norm(gaps, axis=1, keepdims=True)
    return Tasks.of(inputs, zbar, gaps, share * lam_max(zbar, W, gaps))


def exact(tasks: Tasks) -> np.ndarray:
    found = []
    for zbar, gap, lam in zip(tasks.zbar, tasks.gaps, tasks.lam, strict=True):
        problem = LatentProblem(zbar[None].numpy(), decoder(), np.zeros((1, D)), gap.numpy())
        found.append(problem.solve(float(lam)).theta)
    return np.array(found)


def value(theta: np.ndarray, tasks: Tasks) -> np.ndarray:
    return objective(torch.as_tensor(theta).float(), tasks, torch.as_tensor(decoder()).float()).numpy()


def test_the_objective_and_its_lam_max_are_those_of_the_exact_problem():
    tasks = some_tasks(np.random.default_rng(0), 3)
    theta = np.random.default_rng(1).standard_normal((3, F))
    for i in range(3):
        problem = LatentProblem(tasks.zbar[i : i + 1].numpy(), decoder(), np.zeros((1, D)), tasks.gaps[i].numpy())
        want = problem.loss(theta[i]) + float(tasks.lam[i]) * np.abs(theta[i]).sum()
        assert value(theta, tasks)[i] == pytest.approx(want, rel=1e-4)
        assert lam_max(tasks.zbar.numpy(), decoder(), tasks.gaps.numpy())[i] == pytest.approx(problem.lam_max, rel=1e-5)


def test_untrained_lista_of_many_steps_is_the_lasso():
    tasks = some_tasks(np.random.default_rng(0), 4)
    adapter = made(0, lambda: Adapter("lista", D, decoder(), unrolled=600))
    best = exact(tasks)
    found = recipes(adapter, tasks)
    assert (value(found, tasks) / value(best, tasks)).max() < 1 + 1e-4
    assert (value(found, tasks) / value(best, tasks)).min() > 1 - 1e-4  # nothing is below the optimum
    assert ((np.abs(found) > 1e-3) == (np.abs(best) > 1e-3)).mean() > 0.97
    assert not found[:, 7].any()  # a silent feature


@pytest.mark.parametrize("network", NETWORKS)
def test_training_comes_near_the_optimum_of_tasks_it_never_saw(network):
    tasks = some_tasks(np.random.default_rng(99), 32)
    best = value(exact(tasks), tasks)
    adapter = made(0, lambda: Adapter(network, D, decoder(), hidden=96, unrolled=16))
    before = value(recipes(adapter, tasks), tasks) / best - 1
    losses = train(adapter, lambda rng: some_tasks(rng, 32), decoder(), steps=100, lr=8e-3, weight_decay=1e-4, seed=0)
    theta = recipes(adapter, tasks)
    after = value(theta, tasks) / best - 1
    assert after.min() > -1e-4  # the exact solver is the bound
    assert np.median(after) < (0.02 if network == "lista" else 0.8)
    assert np.median(after) < np.median(before)
    assert np.mean(losses[-10:]) < np.mean(losses[:3])
    assert (theta == 0).any()  # zeros are exact zeros
    assert not theta[:, 7].any()


def test_a_recipe_scales_with_its_gap_and_a_network_comes_back_from_its_seed():
    tasks = some_tasks(np.random.default_rng(0), 4)
    for network in NETWORKS:
        adapter = made(3, lambda network=network: Adapter(network, D, decoder(), hidden=16, unrolled=6))
        twice = tasks._replace(gaps=2 * tasks.gaps, lam=2 * tasks.lam)
        np.testing.assert_allclose(recipes(adapter, twice), 2 * recipes(adapter, tasks), rtol=1e-4, atol=1e-6)
        again = made(3, lambda network=network: Adapter(network, D, decoder(), hidden=16, unrolled=6))
        np.testing.assert_array_equal(recipes(again, tasks), recipes(adapter, tasks))


def test_soft_thresholding_by_hand_and_bad_words():
    values = torch.tensor([[-3.0, -0.5, 0.0, 0.5, 3.0]])
    assert soft(values, torch.tensor(1.0)).tolist() == [[-2.0, 0.0, 0.0, 0.0, 2.0]]
    with pytest.raises(SteerError, match="linear, mlp, lista"):
        Adapter("transformer", D, decoder())
    adapter = made(0, lambda: Adapter("linear", D, decoder()))
    tasks = some_tasks(np.random.default_rng(0), 2)
    broken = tasks._replace(lam=tasks.lam * np.nan)
    with pytest.raises(SteerError, match="not finite at step 1: lower"):
        train(adapter, lambda rng: broken, decoder(), steps=1, lr=1.0, weight_decay=0, seed=0)


def planted(seed: int, sparse: bool, n: int = 60, n_known: int = 8, n_genes: int = 80):
    """Perturbations whose recipes, four features of 48, or whose dense shifts follow from what is known of their genes."""
    rng = np.random.default_rng(seed)
    W, head = decoder() / (1 + np.arange(F) % 3)[:, None], rng.standard_normal((D, n_genes)) / np.sqrt(D)
    zbar, known = 1 + rng.random(F), rng.standard_normal((n, n_known))
    if sparse:
        theta = np.zeros((n, F))
        rule = rng.standard_normal((4, n_known)) / np.sqrt(n_known)
        theta[:, rng.choice(F, 4, replace=False)] = 2 * np.maximum(known @ rule.T - 0.5, 0)
        gaps = (theta * zbar) @ W / np.sqrt(D) * 5
    else:
        gaps = known @ rng.standard_normal((n_known, D)) / np.sqrt(n_known)
    noise = rng.standard_normal((n, D)) / np.sqrt(D)
    real = gaps @ head
    return W, head, zbar, known, gaps + noise, real, real + rng.standard_normal(real.shape) / np.sqrt(D)


@pytest.mark.parametrize("sparse", [True, False])
def test_an_adapter_beats_ridge_where_the_truth_is_sparse_in_features_and_not_where_it_is_dense(sparse):
    ratios = {name: [] for name in ("mlp", "lista")}
    for seed in range(2):
        W, head, zbar, known, gaps, real, profiles = planted(seed, sparse)
        train_on, left_out = np.arange(40), np.arange(40, 60)
        ridge = RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(known[train_on], profiles[train_on]).predict(known[left_out])
        lam = float(0.1 * lam_max(np.repeat(zbar[None], 40, 0), W, gaps[train_on]).mean())
        scale = float(np.sqrt((gaps[train_on] ** 2).sum(1).mean()))

        def draw(rng, known=known, zbar=zbar, gaps=gaps, lam=lam):
            which = rng.integers(40, size=48)
            noisy = gaps[which] + 0.3 * rng.standard_normal((48, D)) / np.sqrt(D)
            return Tasks.of(known[which], np.repeat(zbar[None], 48, 0), noisy, np.full(48, lam))

        for name, found in ratios.items():
            how = {"hidden": 64, "unrolled": 8, "knows_gap": False, "scale": scale}
            adapter = made(seed, partial(Adapter, name, known.shape[1], W, **how))
            train(adapter, draw, W, steps=150, lr=8e-3, weight_decay=1e-2, seed=seed)
            tasks = Tasks.of(known[left_out], np.repeat(zbar[None], 20, 0), gaps[left_out], np.full(20, lam))
            predicted = (recipes(adapter, tasks) * zbar) @ W @ head
            found.append(((predicted - real[left_out]) ** 2).mean() / ((ridge - real[left_out]) ** 2).mean())
    for name, found in ratios.items():
        assert (np.mean(found) < 0.95) if sparse else (min(found) > 1.2), (name, found)
