"""`steer browse`: the dictionary's features as one self-contained page."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.contrast import side_names
from ..interpret.activity import cell_activity
from ..report.browser import Catalogue, browser_page
from ..report.page import write_page
from ..run import run_folders
from .activity import ALL
from .annotate import Annotated, Inputs, annotation, caption, inputs
from .common import Context
from .labels import all_parents
from .projection import fit_umap

log = logging.getLogger(__name__)
VERSION = 1
MAX_CELLS = 400
MIN_UMAP = 20
"""Fewer cells are laid out by their first two principal components."""


def main(context: Context) -> None:
    """Gather what is known of the features, and write features.html to the run folder."""
    path = context.run.path / "features.html"
    page = browser_page(catalogue(context))
    write_page(path, page)
    context.run.metrics({"browse/megabytes": len(page.encode()) / 1e6})
    log.info("features: %s", path)


def catalogue(context: Context) -> Catalogue:
    """Return what the store and the run folders know of the configured dictionary's features, annotating them first."""
    found, given = annotation(context), inputs(context)
    cells, codes = _cells(context, given)
    runs = [run for run in reversed(run_folders(Path(context.config.outputs))) if run[1].get("status") == "done"]
    key = given.dictionary.artefact.key
    return Catalogue(
        features=found.features,
        model=context.config.model.path,
        what=caption(context, found),
        genes=_genes(found, given.source.genes),
        pairs=found.enrichment[found.enrichment["q"] < context.config.annotate.q],
        types=found.activity.types,
        profile=found.activity.type_mean,
        cells=cells,
        codes=codes,
        doses=_doses(runs, key),
        recipes=_recipes(context, runs, key),
    )


def _genes(found: Annotated, genes: list[str]) -> pd.DataFrame:
    """The genes of every feature, strongest first, with the feature's mean |z| at them."""
    at = {gene: i for i, gene in enumerate(genes)}
    M = found.activity.matrix()
    frame = found.features[["feature", "genes"]].assign(gene=found.features["genes"].str.split(", ")).explode("gene")
    frame = frame[frame["gene"] != ""]
    weight = M[frame["feature"].to_numpy(int), frame["gene"].map(at).to_numpy(int)]
    return frame[["feature", "gene"]].assign(weight=weight)


def _cells(context: Context, given: Inputs) -> tuple[pd.DataFrame, np.ndarray]:
    """Some cells that fits may see, with a layout of their mean activations, and what the features do in them."""
    source, seed, label = given.source, context.config.annotate.seed, context.config.dataset.label
    rng = np.random.default_rng([seed, 41])
    some = np.sort(rng.permutation(source.fit)[:MAX_CELLS])

    def build(folder: Path) -> None:
        codes, means = cell_activity(given.dictionary.sae, source.tokens, some)
        if len(some) >= MIN_UMAP:
            xy = np.asarray(fit_umap(means, seed).embedding_)
        else:
            u, s, _ = np.linalg.svd(means - means.mean(0), full_matrices=False)
            xy = np.zeros((len(some), 2))
            xy[:, : min(2, len(s))] = (u * s)[:, :2]
        np.savez(folder / "cells.npz", codes=codes, xy=xy)

    settings = {"cells": MAX_CELLS, "seed": seed, "test": source.split_key}
    parents = [source.artefact, given.dictionary.artefact]
    artefact = context.store.get("cell-activity", version=VERSION, config=settings, parents=parents, build=build)
    with np.load(artefact.path / "cells.npz") as file:
        codes, xy = file["codes"], file["xy"]
    types = source.obs[label].astype(str).to_numpy()[some] if label is not None else np.full(len(some), ALL)
    return pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "type": types}), codes


def _keys(manifest: dict[str, Any], stage: str) -> set[str]:
    return {made["key"] for made in manifest.get("artefacts", []) if made["stage"] == stage}


def _doses(runs: list[tuple[Path, dict[str, Any]]], dictionary: str) -> dict[int, dict[str, Any]]:
    """The newest dose response of each feature of a dictionary that `steer feature` has steered."""
    found: dict[int, dict[str, Any]] = {}
    for folder, manifest in runs:
        files = folder / "card.json", folder / "dose.csv"
        if not all(file.is_file() for file in files) or dictionary not in _keys(manifest, "train-sae"):
            continue
        card, dose = json.loads(files[0].read_text()), pd.read_csv(files[1])
        rows = dose.groupby(["kind", "alpha"], sort=False)[["up", "down"]].mean().reset_index()
        title = f"steered alone in {card['cells']} {card['steered_in']} cells"
        found.setdefault(int(card["feature"]), {"title": title, "rows": rows.to_dict("records")})
    return found


def _recipes(context: Context, runs: list[tuple[Path, dict[str, Any]]], dictionary: str) -> list[dict[str, Any]]:
    """The fits on a dictionary in the store: named by their newest run, which is linked where it has a report."""
    parents, found = all_parents(context.store), []
    for record in sorted(context.store.root.glob("fit/*/artefact.json")):
        if dictionary not in parents[record.parent.name]:
            continue
        theta = np.load(record.parent / "theta.npy")
        form = json.loads(record.read_text())["config"]["objective"]
        using = [run for run in runs if record.parent.name in _keys(run[1], "fit")]
        named = next((run for run in using if (run[0] / "report.html").is_file()), using[0] if using else None)
        name, href = f"fit {record.parent.name}", ""
        if named is not None:
            contrast = named[1]["config"]["contrast"]
            sides = side_names(contrast.get("source"), contrast.get("target"), halves=contrast.get("halves", False))
            name = f"{' → '.join(sides)} ({named[0].relative_to(context.config.outputs)})"
            page = named[0] / "report.html"
            href = Path(os.path.relpath(page, context.run.path)).as_posix() if page.is_file() else ""
        label = " ".join([form["name"], *([form["match"]] if form.get("match", "population") != "population" else [])])
        on = np.flatnonzero(theta)
        found.append(
            {"name": f"{label}: {name}", "href": href, "theta": dict(zip(on.tolist(), theta[on].tolist(), strict=True))}
        )
    return sorted(found, key=lambda recipe: (recipe["href"] == "", recipe["name"]))
