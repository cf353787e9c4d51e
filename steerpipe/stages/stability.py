"""`steer stability`: which features come back when only the seed of the training changes?"""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..config import as_dict
from ..data.split import require_test
from ..interpret.programs import gene_sets, participation_ratio
from ..plot import dictionaries as figures
from ..sae.stability import Match, cosines, match, ochiai
from .activity import activity
from .common import Context
from .dictionary import Dictionary, check_dictionary, dictionary
from .extract import Activations, activations
from .plot import dictionary_caption

log = logging.getLogger(__name__)
VERSION = 1


def main(context: Context) -> None:
    """Train every seed that is missing, match their features, and report the table beside its controls."""
    check_dictionary(context.config)
    config = context.config
    source = activations(context)
    require_test(len(source.test))
    found = {
        seed: dictionary(replace(context, config=replace(config, sae=replace(config.sae, seed=seed))), source)
        for seed in config.stability.seeds
    }

    def build(folder: Path) -> None:
        table, pairs = _compare(context, source, found)
        table.to_csv(folder / "stability.csv", index=False)
        pairs.to_parquet(folder / "pairs.parquet", index=False)

    parents = [one.artefact for one in found.values()]
    settings = {**as_dict(config.stability), "seed": config.seed}
    artefact = context.store.get("stability", version=VERSION, config=settings, parents=parents, build=build)
    table, pairs = pd.read_csv(artefact.path / "stability.csv"), pd.read_parquet(artefact.path / "pairs.parquet")
    context.run.table("stability", table)
    context.run.table("pairs", pairs)
    seeds = table[table["kind"] == "seeds"]
    context.run.metrics({f"stability/{name}": float(seeds[name].mean()) for name in ("matched", "mmcs", "share_above")})
    shown = pairs[pairs["kind"].isin(["seeds", "random"])]
    figure = figures.seed_matches(shown, config.stability.threshold, dictionary_caption(config, str(source.policy)))
    context.run.figure("seed_matches", figure, shown)
    log.info("features that fire on held-out cells, matched one to one:\n%s", table.round(3).to_string(index=False))


def _compare(context: Context, source: Activations, found: dict[int, Dictionary]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Match every pair of seeds, a dictionary with itself after a permutation, and random dictionaries of the same size."""
    config = context.config.stability
    rng = np.random.default_rng([context.config.seed, 31])
    # a feature that never fires has no meaning to be stable
    alive = {
        seed: pd.read_csv(one.artefact.path / "features.csv")["density_held"].to_numpy() > 0 for seed, one in found.items()
    }
    rows = {seed: one.sae.W_dec.detach().numpy()[alive[seed]] for seed, one in found.items()}
    sets: dict[int, sp.csr_matrix] = {}
    for seed, one in found.items() if config.gene_sets else ():
        _, where = activity(context, source, "sae", one.sae, one.artefact)
        M = where.matrix()
        sets[seed] = gene_sets(M, participation_ratio(M))[alive[seed]]
    table: list[dict[str, object]] = []
    pairs: list[pd.DataFrame] = []

    def add(kind: str, name: str, matched: Match, extra: dict[str, float]) -> None:
        table.append({"kind": kind, "pair": name, "features": len(matched.a), **matched.row(config.threshold), **extra})
        pairs.append(
            pd.DataFrame({"kind": kind, "pair": name, "a": matched.a, "b": matched.b, "similarity": matched.similarity})
        )

    for a, b in itertools.combinations(found, 2):
        matched, extra = match(cosines(rows[a], rows[b])), {}
        if config.gene_sets:
            overlap = ochiai(sets[a], sets[b])
            extra = {
                "gene_sets_of_pairs": float(overlap[matched.a, matched.b].mean()),
                "gene_sets_of_random_pairs": float(overlap[matched.a, rng.permutation(matched.b)].mean()),
                "gene_sets_matched": match(overlap).row(config.threshold)["matched"],
            }
        add("seeds", f"{a}-{b}", matched, extra)
    first = next(iter(rows.values()))
    add("itself, permuted", f"{next(iter(found))}", match(cosines(first, first[rng.permutation(len(first))])), {})
    one, other = (rng.standard_normal(first.shape) for _ in range(2))
    add("random", "random", match(cosines(one, other)), {})
    return pd.DataFrame(table), pd.concat(pairs, ignore_index=True)
