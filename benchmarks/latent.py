"""`make bench-latent`: the exact latent path on the embedded experiment, beside scikit-learn's Lasso on the same design.

Paired, in one process: the 30-point path, one fit, and scikit-learn's coordinate descent on the explicit design matrix
for three of the points. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import Lasso

from steerpipe.cli.hydra import compose
from steerpipe.run import Run
from steerpipe.stages.common import Context
from steerpipe.stages.experiment import prepare
from steerpipe.stages.fit import PATH_END, latent_problem
from steerpipe.store import Store

RATIOS = (0.3, 0.1, 0.05)


def timed(function, repeats=3):
    """Return the last result and the median wall time of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, float(np.median(times))


def main() -> None:
    """Run it."""
    outputs = Path(os.environ.get("STEER_OUTPUTS", "outputs"))
    config = compose()
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(Context(config, Store(outputs / ".store"), Run(Path(folder), "bench-latent", {})))
    mu = experiment.layer[experiment.split.target_fit].mean(0)
    problem = latent_problem(experiment, mu)
    grid = np.geomspace(1, PATH_END, config.lam.n_path) * problem.lam_max
    problem.path(grid[:3])  # compile
    path, path_seconds = timed(lambda: problem.path(grid))
    _, one_seconds = timed(lambda: problem.solve(0.05 * problem.lam_max))
    n, d = problem.gap_vectors.shape
    on = np.flatnonzero(problem.free)
    X = (problem.z[:, None, on] * problem.W[on].T[None]).reshape(n * d, -1) / np.sqrt(n)
    y = problem.gap_vectors.ravel() / np.sqrt(n)
    rows = []
    for ratio in RATIOS:
        lam = ratio * problem.lam_max
        ours, our_seconds = timed(lambda lam=lam: problem.solve(lam))
        model = Lasso(alpha=lam / (2 * len(y)), fit_intercept=False, tol=1e-8, max_iter=100_000)
        theirs, their_seconds = timed(lambda model=model: model.fit(X, y).coef_, 1)
        objective = float(((y - X @ theirs) ** 2).sum() + lam * np.abs(theirs).sum())
        rows.append(
            {
                "ratio": ratio,
                "features": int((ours.theta != 0).sum()),
                "gap": ours.gap,
                "seconds": our_seconds,
                "sklearn_seconds": their_seconds,
                "speedup": their_seconds / our_seconds,
                "objective_over_sklearn": ours.objective / objective,
            }
        )
        print(rows[-1])
    result = {
        "cells": n,
        "features": len(on),
        "path_points": len(path),
        "path_seconds": path_seconds,
        "one_fit_seconds": one_seconds,
        "path_over_one_fit": path_seconds / one_seconds,
        "largest_gap": max(fit.gap for fit in path),
        "against_sklearn": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
