"""`steer plot`: the figures of an evaluation, each as PNG, SVG and the CSV behind it."""

from __future__ import annotations

import pandas as pd

from ..evaluate.recruitment import THRESHOLDS
from ..pipeline.evaluation import Evaluation
from ..pipeline.feature_labels import feature_labels, labelled
from ..pipeline.pipeline import Pipeline
from ..pipeline.projection import plane, umap
from ..plot import figures
from ..plot import population as population_figures
from ..plot import recipes as recipe_figures
from ..plot.provenance import caption
from ..run import Run


def main(pipeline: Pipeline, run: Run) -> None:
    """Draw every figure, evaluating first where that is missing."""
    draw(pipeline, run, pipeline.evaluation())


def draw(pipeline: Pipeline, run: Run, found: Evaluation) -> None:
    """Draw every figure of an evaluation into the run folder."""
    text = caption(pipeline.config, str(pipeline.activations().policy))
    cells = found.cells
    held = cells[(cells["split"] == "held") & cells["kind"].isin(["recipe", "null"])].copy()
    held["change"] = held["after"] / held["before"] - 1
    run.figure("headline", population_figures.headline(found.scores, text), found.scores)
    run.figure("mirror_boxplot", figures.mirror_boxplot(held, text), held)
    pairs = held[held["kind"] == "recipe"]
    run.figure("before_after", figures.before_after(pairs, text), pairs)
    run.figure("sparsity", figures.sparsity(found.paths, text), found.paths)
    rows = [
        {"objective": recipe.objective, "threshold": t, "n": recipe.info[f"n_{t:g}"], "ratio": recipe.info["ratio"]}
        for recipe in found.recipes
        for t in THRESHOLDS
    ]
    counts = pd.DataFrame(rows)
    run.figure("feature_counts", figures.feature_counts(counts, text), counts)
    labels = feature_labels(pipeline.store, found.recipes[0].artefact)
    named = [labelled(recipe.theta, labels).assign(objective=recipe.objective) for recipe in found.recipes]
    features = pd.concat(named, ignore_index=True)
    run.figure("waterfall", recipe_figures.waterfall(features, text), features)
    points = plane(pipeline, found)
    run.figure("plane", population_figures.plane(points, text), points)
    if pipeline.config.evaluate.umap:
        points = umap(pipeline, found)
        run.figure("umap", recipe_figures.umap(points, text), points)
