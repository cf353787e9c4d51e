"""`steer stability`: the seeds of a dictionary side by side."""

from __future__ import annotations

import logging

import pandas as pd

from ...data.split import require_test
from ...pipeline.dictionary import check_dictionary
from ...pipeline.pipeline import Pipeline
from ...pipeline.recurrence import STABLE, feature_stability, of_seed, with_seed
from ...plot.provenance import dictionary_caption
from ..findings import Findings
from . import figure as figures
from .compute import compared_seeds

log = logging.getLogger(__name__)
SCORES = ("matched", "mmcs", "mmcs_energy", "share_above", "recur", "recur_energy", "subspace", "subspace_chance")


def study(pipeline: Pipeline) -> Findings:
    """Train every seed that is missing, match their features, and report the tables beside their controls."""
    check_dictionary(pipeline.config)
    config = pipeline.config
    source = pipeline.activations()
    require_test(len(source.test))
    trained = {seed: of_seed(pipeline, source, seed) for seed in config.stability.seeds}

    table, pairs = compared_seeds(pipeline, source, trained)
    features = pd.concat(
        [feature_stability(with_seed(pipeline, seed), source, one)[1].assign(seed=seed) for seed, one in trained.items()],
        ignore_index=True,
    )
    found, caption = Findings(), dictionary_caption(config, str(source.policy))
    found.table("stability", table)
    found.table("pairs", pairs)
    found.table("features", features)
    seeds = table[table["kind"] == "seeds"]
    found.metrics({f"stability/{name}": float(seeds[name].mean()) for name in SCORES})
    shown = pairs[pairs["kind"].isin(["seeds", "random"])]
    found.figure("seed_matches", figures.seed_matches(shown, config.stability.threshold, caption), shown)
    found.figure("feature_stability", figures.feature_stability(features, caption), features)
    log.info("features that fire on held-out cells, matched one to one:\n%s", table.round(3).to_string(index=False))
    alive = features[features["fires"]]
    stable = alive["stability"] >= STABLE
    log.info(
        "of the features that fire %.0f %% are in most of the other seeds (stability >= %g); they hold %.0f %% of the energy",
        100 * stable.mean(),
        STABLE,
        100 * alive.loc[stable, "energy"].sum() / alive["energy"].sum(),
    )
    return found
