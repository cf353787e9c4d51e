"""`make bench-adapter`: milliseconds a target for the inverse adapters, the exact lasso and Adam, on the embedded experiment.

Pairs of labels whose targets the networks were never trained on, one target at a time, from the same mean codes and embeddings;
training is not counted, and is given beside it. Adam takes 500 steps, as published. The excess is each one's objective over the
exact optimum, less 1. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from steerpipe.cli.hydra import compose
from steerpipe.pipeline.context import Context
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.problems import latent_problem, weight_of
from steerpipe.steering import adam
from steerpipe.steering.adapters import recipes
from steerpipe.store import Store
from steerpipe.studies.adapter.inverse import find_pairs, tasks_of, train_fold
from steerpipe.studies.adapter.training import State
from steerpipe.studies.labelled import labels_finder


def clocked(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """Return a call's result, and its wall and CPU milliseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    return found, 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def main() -> None:
    """Time every pair of one fold, the ways taking turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", default=[], help="settings, as of steer adapter")
    config = compose("threads=1", *parser.parse_args().words)
    context = Context(config, Store(Path(config.outputs) / ".store"))
    experiment = prepare(context, find=labels_finder(config, "adapter"))
    pairs, folds, fit = find_pairs(experiment)
    start = time.process_time()
    fold = train_fold(experiment, State(experiment), 0, folds, fit)
    training = time.process_time() - start
    times: dict[str, list[tuple[float, float]]] = {}
    excess: dict[str, list[float]] = {}
    for pair in (pair for pair in pairs if pair.fold == 0):
        problem = latent_problem(experiment, config.objective, [pair.sides])
        lam = weight_of(config.lam, problem.lam_max)
        best = problem.solve(lam).objective

        def exact(pair=pair) -> np.ndarray:
            posed = latent_problem(experiment, config.objective, [pair.sides])
            return posed.solve(weight_of(config.lam, posed.lam_max)).theta

        def by_adam(pair=pair) -> np.ndarray:
            posed = latent_problem(experiment, config.objective, [pair.sides])
            return adam.solve(posed, weight_of(config.lam, posed.lam_max)).theta

        ways: dict[str, Callable[[], np.ndarray]] = {"exact": exact, "adam": by_adam}
        for name in config.adapter.networks:
            ways[name] = lambda pair=pair, name=name: recipes(
                fold.adapters[name], tasks_of(fold.state, [pair.sides], fold.inputs)
            )[0]
        for name, way in ways.items():
            theta, wall, cpu = clocked(way)
            times.setdefault(name, []).append((wall, cpu))
            excess.setdefault(name, []).append(problem.certificate(theta, lam)[0] / best - 1)
    rows = {
        name: {
            "wall_ms": round(median(wall for wall, _ in some), 3),
            "cpu_ms": round(median(cpu for _, cpu in some), 3),
            "excess": round(float(median(excess[name])), 5),
            "excess_max": round(float(max(excess[name])), 5),
        }
        for name, some in times.items()
    }
    for name, row in rows.items():
        what = f"excess {row['excess']:.4f} (at most {row['excess_max']:.4f})"
        print(f"{name:8s} {row['wall_ms']:9.2f} ms wall {row['cpu_ms']:9.2f} ms CPU   {what}")
    print(json.dumps({"bench": "adapter", "features": experiment.sae.n_features, "pairs": len(times["exact"]),
                      "training_cpu_seconds": round(training, 1), "ways": rows}))  # fmt: skip


if __name__ == "__main__":
    main()
