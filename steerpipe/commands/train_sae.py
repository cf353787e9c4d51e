"""`steer train-sae`: the dictionary beside its baselines, its curve and its figures; of a sweep, the table of all."""

from __future__ import annotations

import logging

import pandas as pd

from ..pipeline.dictionary import check_dictionary
from ..pipeline.dictionary_scores import compare
from ..pipeline.pipeline import Pipeline
from ..plot import dictionaries as figures
from ..plot.provenance import dictionary_caption
from ..run import Run
from .sae_sweep import recurs_in_sweep, write_sweep

log = logging.getLogger(__name__)


def main(pipeline: Pipeline, run: Run) -> None:
    """Train or import, and report scores, baselines, the curve and each feature's density."""
    check_dictionary(pipeline.config)
    source = pipeline.activations()
    found = pipeline.dictionary()
    caption = dictionary_caption(pipeline.config, str(source.policy))
    run.metrics(found.scores | {"sae/n_features": found.sae.n_features, "sae/seconds": found.artefact.seconds})
    curve = found.artefact.path / "curve.jsonl"
    if curve.is_file():
        rows = pd.read_json(curve, lines=True)
        run.curve(rows.to_dict("records"))
        run.figure("training_curve", figures.training_curve(rows, caption), rows)
    if not len(source.test):
        run.table("features", pd.read_csv(found.artefact.path / "features.csv"))
        log.info("no test cells (dataset.test_share=0): the dictionary is not compared with its baselines")
        return
    compared = compare(pipeline, source, found)
    table = compared.table
    own = table.iloc[0]
    run.metrics({f"sae_held/{name}": float(own[name]) for name in ("fidelity_loss", "fidelity_expression")})
    run.table("dictionaries", table)
    run.table("types", compared.types)
    run.table("features", pd.read_csv(found.artefact.path / "features.csv").merge(compared.features.drop(columns="density")))
    run.figure("features", figures.features(compared.features, caption), compared.features)
    run.figure("baselines", figures.baselines(table, caption), table)
    log.info("held-out cells:\n%s", table.round(4).to_string(index=False))
    if run.sweep is not None:
        run.table("seeds", recurs_in_sweep(pipeline, run, source, found))
        swept, settings = write_sweep(run.sweep, dictionary_caption(pipeline.config, None))
        log.info("the sweep so far:\n%s", swept.round(4).to_string(index=False))
        log.info("its settings, front: best in fidelity, stability and L0:\n%s", settings.round(4).to_string(index=False))
        log.info("%s", run.sweep)
