"""`steer atlas`: dictionaries of several tissues on each other's cells, what they share, and whether recipes carry over."""

from __future__ import annotations

import logging

import pandas as pd

from ...pipeline.dictionary import check_dictionary
from ...pipeline.pipeline import Pipeline
from ...plot.provenance import model_phrase, sae_phrase
from ..findings import Findings
from . import compute, figure, table
from .carry import carried
from .compute import POOLED, POOLED_ALL
from .tissues import check, find_tissues

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Train what is missing, score, match, print and draw."""
    config, found = pipeline.config, Findings()
    check(config)
    check_dictionary(config)
    tissues = find_tissues(pipeline)
    names = [one.name for one in tissues]
    every = compute.dictionaries(tissues, config.atlas.seeds)
    pooled = {}
    if config.atlas.pooled:
        seed = config.atlas.seeds[0]
        pooled = {POOLED: compute.train_pooled(pipeline, tissues, config.sae.tokens, seed),
                  POOLED_ALL: compute.train_pooled(pipeline, tissues, len(tissues) * config.sae.tokens, seed)}  # fmt: skip
    scores = compute.transfer(pipeline, tissues, every, pooled)
    alike, chance = compute.similarity(pipeline, tissues, every)
    pairs = table.pairs(scores, alike, names)
    features = compute.features(pipeline, tissues, pooled[POOLED] if pooled else every[names[0]][config.atlas.seeds[0]].sae)
    recipes, left_out = carried(pipeline, tissues, every) if config.atlas.carry else (pd.DataFrame(), [])
    found.table("pairs", pairs)
    found.table("scores", scores)
    found.table("similarity", alike)
    found.table("features", features.table)
    found.table("shares", features.shares)
    if len(recipes):
        found.table("recipes", recipes)
    log.info("dictionaries (rows `of`) on held-out cells of (`on`):\n%s", pairs.round(3).to_string(index=False))
    if config.atlas.fidelity and "fidelity_loss" in scores:
        fidelity = scores.pivot_table(index="of", columns="on", values="fidelity_loss", sort=False)
        log.info("spliced-in fidelity, first seed:\n%s", fidelity.round(3).to_string())
    if len(recipes):
        log.info("recipes carried over:\n%s", recipes.round(3).to_string(index=False))
    for line in left_out:
        log.info("%s", line)
    said = table.lines(pairs, alike, chance, POOLED if pooled else names[0], features, recipes)
    found.text("conclusion", said)
    log.info("%s", "\n".join(said))
    found.metrics({f"{row.of} on {row.on}/excess": row.excess for row in pairs.itertuples()})
    where = config.atlas.split or "several datasets"
    model = model_phrase(config).split(" · ")[0]
    text = f"{model} · {where} · layer {config.layer.index} · {sae_phrase(config)} · {len(config.atlas.seeds)} seeds"
    found.figure("atlas", figure.atlas(pairs, features.shares, names, text), pairs)
    return found
