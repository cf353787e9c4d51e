"""`steer stability`: which features come back when only the seed of the training changes?"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ..config import as_dict
from ..data.split import require_test
from ..interpret.programs import gene_sets, participation_ratio
from ..plot import dictionaries as figures
from ..sae.baselines import random_sae, sample_tokens
from ..sae.centred import CentredTokens
from ..sae.model import TopKSAE
from ..sae.stability import Match, Recurrence, cosines, energy_weighted, match, ochiai, recurrence
from .activity import activity
from .common import Context
from .dictionary import Dictionary, check_dictionary
from .extract import Activations, activations
from .plot import dictionary_caption
from .recurrence import STABLE, compared, feature_stability, of_seed, some_cells, with_seed

log = logging.getLogger(__name__)
VERSION = 2
SCORES = ("matched", "mmcs", "mmcs_energy", "share_above", "recur", "recur_energy", "subspace", "subspace_chance")


def main(context: Context) -> None:
    """Train every seed that is missing, match their features, and report the tables beside their controls."""
    check_dictionary(context.config)
    config = context.config
    source = activations(context)
    require_test(len(source.test))
    found = {seed: of_seed(context, source, seed) for seed in config.stability.seeds}

    def build(folder: Path) -> None:
        table, pairs = _compare(context, source, found)
        table.to_csv(folder / "stability.csv", index=False)
        pairs.to_parquet(folder / "pairs.parquet", index=False)

    parents = [one.artefact for one in found.values()]
    settings = {**as_dict(config.stability), "seed": config.seed}
    artefact = context.store.get("stability", version=VERSION, config=settings, parents=parents, build=build)
    table, pairs = pd.read_csv(artefact.path / "stability.csv"), pd.read_parquet(artefact.path / "pairs.parquet")
    features = pd.concat(
        [feature_stability(with_seed(context, seed), source, one)[1].assign(seed=seed) for seed, one in found.items()],
        ignore_index=True,
    )
    run, caption = context.run, dictionary_caption(config, str(source.policy))
    run.table("stability", table)
    run.table("pairs", pairs)
    run.table("features", features)
    seeds = table[table["kind"] == "seeds"]
    run.metrics({f"stability/{name}": float(seeds[name].mean()) for name in SCORES})
    shown = pairs[pairs["kind"].isin(["seeds", "random"])]
    run.figure("seed_matches", figures.seed_matches(shown, config.stability.threshold, caption), shown)
    run.figure("feature_stability", figures.feature_stability(features, caption), features)
    log.info("features that fire on held-out cells, matched one to one:\n%s", table.round(3).to_string(index=False))
    alive = features[features["fires"]]
    stable = alive["stability"] >= STABLE
    log.info(
        "of the features that fire %.0f %% are in most of the other seeds (stability >= %g); they hold %.0f %% of the energy",
        100 * stable.mean(),
        STABLE,
        100 * alive.loc[stable, "energy"].sum() / alive["energy"].sum(),
    )


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
