"""`make bench-fit`: the latent fit, exact and by Adam: time and objective, on the embedded experiment and at F = 10,400.

The large problem is synthetic, at AIDO.Cell-100M's width: decoder rows and activities share programmes, so that features
are correlated as a trained dictionary's are, and few features fire often. A fit includes the building of the problem, that
is its linear term. Exact and Adam (500 steps, learning rate 0.01, values below 1e-4 reset) take turns in one process, and
the CPU time of one thread is given beside the wall time. scikit-learn's Lasso solves the embedded problem on the explicit
design matrix. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Lasso

from steerpipe.cli.hydra import compose
from steerpipe.pipeline.context import Context
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.problems import latent_problem
from steerpipe.steering import adam
from steerpipe.steering.lasso import LatentProblem
from steerpipe.store import Store

ONE, PATH_POINTS = 0.02, 20
PLANTED = 40

Make = Callable[[], LatentProblem]


def clocked(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a call's result, its wall and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def synthetic(n: int, width: int, n_features: int, seed: int = 0) -> tuple[Make, np.ndarray]:
    """Return a problem of correlated features and the recipe (F,) that was planted in it."""
    rng = np.random.default_rng(seed)
    n_programmes = 40
    programmes = rng.standard_normal((n_programmes, width))
    member = rng.integers(n_programmes, size=n_features)
    W = (0.7 * programmes[member] + rng.standard_normal((n_features, width))) / np.sqrt(width)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    active = rng.gamma(2, 0.5, (n, n_programmes))
    rate = np.minimum(rng.lognormal(-5, 1.5, n_features), 0.05)  # no feature outshines all others
    z = rate * active[:, member] * rng.lognormal(0, 0.3, (n, n_features))
    z *= (rng.random((n, n_features)) < np.minimum(1, 60 * rate)) * rng.choice([-1, 1], n_features)
    theta = np.zeros(n_features)
    theta[rng.choice(np.argsort(-rate)[:600], PLANTED, replace=False)] = rng.normal(0, 1, PLANTED)
    embeddings = 0.02 * rng.standard_normal((n, width))
    mu = ((z * theta) @ W).mean(0)
    return lambda: LatentProblem(z, W, embeddings, mu, match="cell"), theta


def compare(make: Make, rounds: int) -> dict[str, Any]:
    """Time one exact fit, the exact path and Adam on one problem, in turn."""
    problem = make()
    problem.path(np.array([1.0, 0.9]) * problem.lam_max)  # compile
    lam = ONE * problem.lam_max
    grid = np.geomspace(1, ONE, PATH_POINTS) * problem.lam_max
    ways: dict[str, Callable[[], Any]] = {
        "exact": lambda: make().solve(lam),
        "path": lambda: make().path(grid),
        "adam": lambda: adam.solve(make(), lam),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name], *times = clocked(way)
            seconds[name].append((times[0], times[1]))
    walls = {name: median(wall for wall, _ in times) for name, times in seconds.items()}
    cpus = {name: median(cpu for _, cpu in times) for name, times in seconds.items()}
    exact, theirs = found["exact"], found["adam"]
    return {
        "cells": problem.n,
        "width": problem.W.shape[1],
        "features": len(problem.W),
        "that_may_move": int(problem.free.sum()),
        "seconds": walls,
        "cpu_seconds": cpus,
        "adam_over_exact": median(a[1] / e[1] for a, e in zip(seconds["adam"], seconds["exact"], strict=True)),
        "path_over_one_fit": median(p[1] / e[1] for p, e in zip(seconds["path"], seconds["exact"], strict=True)),
        "gap": {"exact": exact.gap, "path": max(fit.gap for fit in found["path"]), "adam": theirs.gap},
        "nonzero": {"exact": int((exact.theta != 0).sum()), "adam": int((theirs.theta != 0).sum())},
        "adam_objective_over_exact": theirs.objective / exact.objective,
    }


def recovery(make: Make, planted: np.ndarray) -> dict[str, int | float]:
    """Exact is not right: how much of a planted recipe the exact solution finds, and what the refit does to its size."""
    problem = make()
    theta = problem.solve(ONE * problem.lam_max).theta
    refit = problem.refit(theta)
    true = planted != 0
    hit = true & (theta != 0)
    return {
        "planted": int(true.sum()),
        "found": int(hit.sum()),
        "recruited": int((theta != 0).sum()),
        "error_of_found": float(np.abs(theta - planted)[hit].mean()),
        "error_of_found_after_refit": float(np.abs(refit - planted)[hit].mean()),
    }


def against_sklearn(problem: LatentProblem) -> list[dict[str, float]]:
    """Solve some lambdas with scikit-learn on the explicit design matrix."""
    on = np.flatnonzero(problem.free)
    n, d = problem.gap_vectors.shape
    X = (problem.z[:, None, on] * problem.W[on].T[None]).reshape(n * d, -1) / np.sqrt(n)
    y = problem.gap_vectors.ravel() / np.sqrt(n)
    rows = []
    for ratio in (0.3, 0.1, 0.05):
        lam = ratio * problem.lam_max
        ours, _, our_seconds = clocked(lambda lam=lam: problem.solve(lam))
        model = Lasso(alpha=lam / (2 * len(y)), fit_intercept=False, tol=1e-8, max_iter=100_000)
        theirs, _, their_seconds = clocked(lambda model=model: model.fit(X, y).coef_)
        objective = float(((y - X @ theirs) ** 2).sum() + lam * np.abs(theirs).sum())
        row = {"ratio": ratio, "sklearn_over_ours": their_seconds / our_seconds}
        rows.append(row | {"objective_over_sklearn": ours.objective / objective})
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--features", type=int, default=10_400)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--width", type=int, default=640)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    config = compose()
    outputs = Path(os.environ.get("STEER_OUTPUTS", "outputs"))
    experiment = prepare(Context(config, Store(outputs / ".store")))
    published = replace(config.objective, match="cell")  # the form that Adam is published for
    embedded = compare(lambda: latent_problem(experiment, published), options.rounds)
    print("embedded:", json.dumps(embedded))
    sklearn = against_sklearn(latent_problem(experiment, published))
    print("scikit-learn:", json.dumps(sklearn))
    make, planted = synthetic(options.cells, options.width, options.features)
    large = compare(make, options.rounds)
    print("synthetic:", json.dumps(large))
    planted_found = recovery(make, planted)
    print(json.dumps({"embedded": embedded, "scikit-learn": sklearn, "synthetic": large, "planted": planted_found}))


if __name__ == "__main__":
    main()
