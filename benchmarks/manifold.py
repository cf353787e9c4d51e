"""Are steered cells where real ones are? Three remedies beside the plain recipe and the dense mean difference, at equal gap.

    make bench-manifold
    make bench-manifold ARGS="dataset=pbmc3k"

Each remedy's lambda path is followed to the point whose held-out gap is nearest to the wanted one; the dense mean difference is
scaled to that same gap. C2ST: AUC of a classifier that tells steered from real target cells, .5 is indistinguishable. The last
line is one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from steerpipe.cli.hydra import compose
from steerpipe.evaluate.scorer import Scorer
from steerpipe.pipeline.context import Context
from steerpipe.pipeline.experiment import Experiment, prepare
from steerpipe.pipeline.learnable import learnable_features
from steerpipe.pipeline.scoring import scorer
from steerpipe.run import Run
from steerpipe.steering.controls import mean_difference
from steerpipe.steering.intervene import add_vector, recipe_edit
from steerpipe.steering.lasso import LatentProblem
from steerpipe.steering.metric import orthogonal_penalty, whitening
from steerpipe.steering.pooled import pooled_codes
from steerpipe.store import Store

GAPS = (0.3, 0.5, 0.7)
RATIOS = np.geomspace(1, 0.01, 30)
SHOWN = ("gap", "orthogonal", "edistance", "c2st", "spread")


@dataclass(frozen=True)
class Remedy:
    """What is added to the plain latent objective."""

    name: str
    bounds: tuple[float | None, float | None] = (None, None)
    orthogonal: float = 0.0
    floor: float | None = None
    whitened: bool = False


REMEDIES = (
    Remedy("plain"),
    Remedy("orthogonal part x2", orthogonal=1.0),
    Remedy("orthogonal part x11", orthogonal=10.0),
    Remedy("alpha >= 0", bounds=(-1.0, None)),
    Remedy("codes above their median", floor=50.0),
    Remedy("codes above their 80th percentile", floor=80.0),
    Remedy("whitened metric", whitened=True),
)


def floors(experiment: Experiment, percentile: float) -> torch.Tensor:
    """Return the percentile of |code| where a feature fires, over the fit's source cells, (F,)."""
    cached, sae = experiment.cached, experiment.sae
    values, features = [], []
    with torch.no_grad():
        for batch in cached.batches(experiment.fit_rows, 8):
            codes = cached.encode(sae, batch)
            values.append(codes.values.abs().flatten().numpy())
            features.append(codes.indices.flatten().numpy())
    frame = pd.DataFrame({"value": np.concatenate(values), "feature": np.concatenate(features)})
    found = frame.groupby("feature")["value"].quantile(percentile / 100)
    return torch.from_numpy(found.reindex(range(sae.n_features), fill_value=np.inf).to_numpy(np.float32))


def path(experiment: Experiment, remedy: Remedy) -> tuple[list[np.ndarray], torch.Tensor | None, np.ndarray]:
    """Return theta at every ratio, the floor, and the mean codes that steering acts on, of the held-out cells."""
    source, target = (experiment.layer[experiment.cells[rows]] for rows in experiment.sides)
    way = target.mean(0) - source.mean(0)
    metric = whitening(source, target) if remedy.whitened else None
    if remedy.orthogonal:
        metric = orthogonal_penalty(way, remedy.orthogonal)
    floor, codes = None, experiment.zbar
    if remedy.floor is not None:
        floor = floors(experiment, remedy.floor)
        codes = pooled_codes(experiment.cached, experiment.sae, np.arange(len(experiment.cells)), batch_size=8, floor=floor)[0]
    W_dec = experiment.sae.W_dec.detach().numpy()
    free = learnable_features(experiment, "active")
    z = codes[experiment.fit_rows]
    problem = LatentProblem(z, W_dec, source, target.mean(0), free, metric=metric, bounds=remedy.bounds)
    fits = problem.path(RATIOS * problem.lam_max)
    return [fit.theta for fit in fits], floor, codes


def rows(experiment: Experiment, how: Scorer, remedy: Remedy) -> list[dict[str, Any]]:
    """Return a row a wanted gap: the recipe's scores in the layer and in expression, and those of the dense vector there."""
    thetas, floor, codes = path(experiment, remedy)
    W_dec = experiment.sae.W_dec.detach().double().numpy()
    start, goal = how.base.layer.mean(0), how.goal.layer.mean(0)
    way = (goal - start).astype(np.float64)
    held = [float(((codes[how.rows] * theta) @ W_dec).mean(0) @ way / (way @ way)) for theta in thetas]
    dense = mean_difference(*(experiment.layer[experiment.cells[side]] for side in experiment.sides)).astype(np.float64)
    found = []
    for wanted in GAPS:
        at = int(np.argmin(np.abs(np.array(held) - wanted)))
        if abs(held[at] - wanted) > 0.1:
            continue
        theta = torch.as_tensor(thetas[at], dtype=torch.float32)
        values = how.values(how.state(recipe_edit(experiment.sae, theta, "multiply", floor)))
        scale = held[at] * float(way @ way) / float(dense @ way)
        beside = how.values(how.state(add_vector(torch.as_tensor(scale * dense, dtype=torch.float32))))
        row: dict[str, Any] = {"remedy": remedy.name, "wanted": wanted, "features": int(np.count_nonzero(thetas[at]))}
        for space in ("layer", "expression"):
            row |= {f"{space} {name}": values[space, name] for name in SHOWN if (space, name) in values}
            row[f"{space} c2st, dense"] = beside[space, "c2st"]
        found.append(row)
    return found


def main() -> None:
    """Print the table, and one JSON object."""
    config = compose(*sys.argv[1:])
    run = Run(Path(config.outputs) / "bench-manifold", "bench", {})
    run.path.mkdir(parents=True, exist_ok=True)
    experiment = prepare(Context(config, Store(Path(config.outputs) / ".store")), scored=True)
    how = scorer(experiment)
    table = pd.DataFrame([row for remedy in REMEDIES for row in rows(experiment, how, remedy)])
    run.table("manifold", table)
    print(table.round(2).to_string(index=False))
    floor = {space: how.floors[space, "c2st"] for space in ("layer", "expression")}
    worse = (table["layer c2st"] - table["layer c2st, dense"]).groupby(table["remedy"], sort=False).mean().round(3).to_dict()
    print(json.dumps({"cells": len(how.rows), "floor": floor, "c2st_layer_minus_dense": worse}))


if __name__ == "__main__":
    main()
