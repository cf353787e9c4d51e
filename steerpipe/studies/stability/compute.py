"""Every pair of seeds of a dictionary, matched feature by feature, beside controls."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ...config import as_dict
from ...interpret.programs import gene_sets, participation_ratio
from ...pipeline.activations import Activations
from ...pipeline.artefact import built
from ...pipeline.context import Context
from ...pipeline.dictionary import Dictionary
from ...pipeline.feature_activity import activity
from ...pipeline.recurrence import compared, some_cells
from ...sae.baselines import random_sae, sample_tokens
from ...sae.centred import CentredTokens
from ...sae.model import TopKSAE
from ...sae.stability import Match, Recurrence, cosines, energy_weighted, match, ochiai, recurrence

log = logging.getLogger(__name__)
VERSION = 2


def compared_seeds(context: Context, source: Activations, found: dict[int, Dictionary]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what every pair of seeds has in common, comparing them when that is missing.

    Returns
    -------
    table : one row a pair: kind (seeds, itself permuted, random), pair, features, and the scores of sae.stability
    pairs : one row a matched pair of features: kind, pair, a, b, similarity
    """
    config = context.config

    def build(folder: Path) -> None:
        table, pairs = _compare(context, source, found)
        table.to_csv(folder / "stability.csv", index=False)
        pairs.to_parquet(folder / "pairs.parquet", index=False)

    parents = [one.artefact for one in found.values()]
    settings = {**as_dict(config.stability), "seed": config.seed}
    artefact = built(context, "stability", build, version=VERSION, reads=settings, parents=parents)
    return pd.read_csv(artefact.path / "stability.csv"), pd.read_parquet(artefact.path / "pairs.parquet")


def _compare(context: Context, source: Activations, found: dict[int, Dictionary]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match every pair of seeds, a dictionary with itself after a permutation, and random dictionaries of the same size."""
    config = context.config.stability
    rng = np.random.default_rng([context.config.seed, 31])
    sets: dict[int, sp.csr_matrix] = {}
    for seed, one in found.items() if config.gene_sets else ():
        _, where = activity(context, source, "sae", one.sae, one.artefact)
        M = where.matrix()
        sets[seed] = gene_sets(M, participation_ratio(M))
    table: list[dict[str, object]] = []
    pairs: list[pd.DataFrame] = []

    def add(kind: str, name: str, a: TopKSAE, b: TopKSAE, common: Recurrence) -> Match:
        rows = [one.W_dec.detach().numpy() for one in (a, b)]
        # a feature that never fires has no meaning to be stable
        alive = [np.flatnonzero(fires) for fires in (common.fires_a, common.fires_b)]
        cosine = cosines(rows[0][alive[0]], rows[1][alive[1]])
        matched = match(cosine)
        weighted = [
            energy_weighted(cosine.max(1), common.energy_a[alive[0]]), energy_weighted(cosine.max(0), common.energy_b[alive[1]])
        ]  # fmt: skip
        row = {"kind": kind, "pair": name, "features": len(matched.a), **matched.row(config.threshold)}
        table.append({**row, "mmcs_energy": float(np.mean(weighted)), **common.row()})
        named = {"kind": kind, "pair": name, "a": alive[0][matched.a], "b": alive[1][matched.b]}
        pairs.append(pd.DataFrame({**named, "similarity": matched.similarity}))
        return Match(alive[0][matched.a], alive[1][matched.b], matched.similarity, matched.best)

    for a, b in itertools.combinations(found, 2):
        matched = add("seeds", f"{a}-{b}", found[a].sae, found[b].sae, compared(context, source, found[a], found[b]))
        if config.gene_sets:
            overlap = ochiai(sets[a], sets[b])
            table[-1] |= {
                "gene_sets_of_pairs": float(overlap[matched.a, matched.b].mean()),
                "gene_sets_of_random_pairs": float(overlap[matched.a, rng.permutation(matched.b)].mean()),
            }
    cells = some_cells(context, source.test)
    first = next(iter(found.values())).sae
    turned = _permuted(first, rng.permutation(first.n_features))
    add("itself, permuted", f"{next(iter(found))}", first, turned, recurrence(first, turned, source.tokens, cells))
    tokens = CentredTokens(source.tokens, first.b_pre) if first.gene_centred else source.tokens
    x = sample_tokens(tokens, source.fit_sample, 4 * first.n_features, seed=context.config.seed)
    left, right = (random_sae(x, first.n_features, first.k, seed=seed) for seed in (0, 1))
    if first.gene_centred:
        left, right = (one.centre_genes(first.b_pre, first.genes) for one in (left, right))
    add("random", "random", left, right, recurrence(left, right, source.tokens, cells))
    return pd.DataFrame(table), pd.concat(pairs, ignore_index=True)


def _permuted(sae: TopKSAE, order: np.ndarray) -> TopKSAE:
    """Return the same SAE with its features in another order."""
    at = {"W_enc": 1, "b_enc": 0, "W_dec": 0, "threshold": 0}
    state = {name: value.index_select(at[name], torch.from_numpy(order)) if name in at else value
             for name, value in sae.state_dict().items()}  # fmt: skip
    made = type(sae)(sae.W_dec.shape[1], sae.n_features, sae.k, activation=sae.activation, unit_norm=sae.unit_norm)
    if sae.gene_centred:
        made.centre_genes(torch.zeros_like(sae.b_pre), sae.genes)
    made.load_state_dict(state)
    return made.eval().requires_grad_(False)
