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
from ..pipeline.annotation import Annotated, inputs
from ..pipeline.feature_cells import feature_cells
from ..pipeline.feature_labels import all_parents
from ..pipeline.pipeline import Pipeline
from ..plot.provenance import annotation_caption
from ..report.browser import Catalogue, browser_page
from ..report.page import write_page
from ..run import Run, run_folders

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Gather what is known of the features, and write features.html to the run folder."""
    path = run.path / "features.html"
    page = browser_page(catalogue(pipeline, run))
    write_page(path, page)
    run.metrics({"browse/megabytes": len(page.encode()) / 1e6})
    log.info("features: %s", path)


def catalogue(pipeline: Pipeline, run: Run) -> Catalogue:
    """Return what the store and the run folders know of the configured dictionary's features, annotating them first."""
    found, given = pipeline.annotation(), inputs(pipeline)
    cells, codes = feature_cells(pipeline, given)
    runs = [one for one in reversed(run_folders(Path(pipeline.config.outputs))) if one[1].get("status") == "done"]
    key = given.dictionary.artefact.key
    return Catalogue(
        features=found.features,
        model=pipeline.config.model.path,
        what=annotation_caption(pipeline.config, found.scores["sets"], found.scores["background"]),
        genes=_genes(found, given.source.genes),
        pairs=found.enrichment[found.enrichment["q"] < pipeline.config.annotate.q],
        types=found.activity.types,
        profile=found.activity.type_mean,
        cells=cells,
        codes=codes,
        doses=_doses(runs, key),
        recipes=_recipes(pipeline, run, runs, key),
    )


def _genes(found: Annotated, genes: list[str]) -> pd.DataFrame:
    """The genes of every feature, strongest first, with the feature's mean |z| at them."""
    at = {gene: i for i, gene in enumerate(genes)}
    M = found.activity.matrix()
    frame = found.features[["feature", "genes"]].assign(gene=found.features["genes"].str.split(", ")).explode("gene")
    frame = frame[frame["gene"] != ""]
    weight = M[frame["feature"].to_numpy(int), frame["gene"].map(at).to_numpy(int)]
    return frame[["feature", "gene"]].assign(weight=weight)


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


def _recipes(pipeline: Pipeline, run: Run, runs: list[tuple[Path, dict[str, Any]]], dictionary: str) -> list[dict[str, Any]]:
    """The fits on a dictionary in the store: named by their newest run, which is linked where it has a report."""
    parents, found = all_parents(pipeline.store), []
    for record in sorted(pipeline.store.root.glob("fit/*/artefact.json")):
        if dictionary not in parents[record.parent.name]:
            continue
        theta = np.load(record.parent / "theta.npy")
        form = json.loads(record.read_text())["config"]["objective"]
        using = [one for one in runs if record.parent.name in _keys(one[1], "fit")]
        named = next((one for one in using if (one[0] / "report.html").is_file()), using[0] if using else None)
        name, href = f"fit {record.parent.name}", ""
        if named is not None:
            contrast = named[1]["config"]["contrast"]
            sides = side_names(contrast.get("source"), contrast.get("target"), halves=contrast.get("halves", False))
            name = f"{' → '.join(sides)} ({named[0].relative_to(pipeline.config.outputs)})"
            page = named[0] / "report.html"
            href = Path(os.path.relpath(page, run.path)).as_posix() if page.is_file() else ""
        label = " ".join([form["name"], *([form["match"]] if form.get("match", "population") != "population" else [])])
        on = np.flatnonzero(theta)
        found.append(
            {"name": f"{label}: {name}", "href": href, "theta": dict(zip(on.tolist(), theta[on].tolist(), strict=True))}
        )
    return sorted(found, key=lambda recipe: (recipe["href"] == "", recipe["name"]))
