"""`steer plot`: the figures of an evaluation, each as PNG, SVG and the CSV behind it."""

from __future__ import annotations

import pandas as pd

from ..config import Config
from ..data.contrast import side_names
from ..evaluate.recruitment import THRESHOLDS
from ..plot import figures
from ..plot import population as population_figures
from ..plot import recipes as recipe_figures
from .common import Context, model_phrase, sae_phrase
from .evaluate import Evaluation, evaluation
from .extract import activations
from .labels import feature_labels, labelled
from .projection import plane, umap


def main(context: Context) -> None:
    """Draw every figure, evaluating first where that is missing."""
    draw(context, evaluation(context))


def draw(context: Context, found: Evaluation) -> None:
    """Draw every figure of an evaluation into the run folder."""
    text = caption(context.config, str(activations(context).policy))
    cells = found.cells
    held = cells[(cells["split"] == "held") & cells["kind"].isin(["recipe", "null"])].copy()
    held["change"] = held["after"] / held["before"] - 1
    run = context.run
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
    labels = feature_labels(context.store, found.recipes[0].artefact)
    named = [labelled(recipe.theta, labels).assign(objective=recipe.objective) for recipe in found.recipes]
    features = pd.concat(named, ignore_index=True)
    run.figure("waterfall", recipe_figures.waterfall(features, text), features)
    points = plane(context, found)
    run.figure("plane", population_figures.plane(points, text), points)
    if context.config.evaluate.umap:
        points = umap(context, found)
        run.figure("umap", recipe_figures.umap(points, text), points)


def caption(config: Config, tokens: str | None) -> str:
    """Return one line on what a figure shows: model, data, contrast, and the SAE with its tokens (None: no one SAE)."""
    contrast = config.contrast
    source, target = side_names(contrast.source, contrast.target, halves=contrast.halves)
    return _caption(config, f"{source} -> {target} · layer {config.layer.index}", tokens)


def dictionary_caption(config: Config, tokens: str | None) -> str:
    """Return the line below a figure of a dictionary, which knows no contrast."""
    return _caption(config, f"layer {config.layer.index}", tokens)


def _caption(config: Config, where: str, tokens: str | None) -> str:
    text = f"{model_phrase(config)} · {where}"
    return text if tokens is None else f"{text} · {sae_phrase(config)} on {tokens} tokens"
