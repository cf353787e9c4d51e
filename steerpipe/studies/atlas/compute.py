"""Every dictionary on every tissue's held-out cells, features matched, and a pooled dictionary's features by tissue."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ...activations.joined import Joined, equal_shares
from ...config import as_dict
from ...device import pick_device
from ...digest import array_digest
from ...evaluate.atlas import by_tissue, code_similarity, depth_aurocs, depth_matched, null_shares, shares
from ...pipeline.activations import layer_index, load_cells, load_steered_model
from ...pipeline.artefact import built
from ...pipeline.context import Context
from ...pipeline.dictionary import Dictionary
from ...progress import track
from ...sae.baselines import random_sae, sample_tokens
from ...sae.fidelity import fidelity, splice_losses
from ...sae.io import load_sae, save_sae
from ...sae.metrics import score_sae
from ...sae.model import TopKSAE
from ...sae.stability import cosines, match
from ...sae.train import train_sae
from .tissues import Tissue

log = logging.getLogger(__name__)
VERSION = 1
TOKENS = 6000
"""Tokens of a tissue's held-out cells that codes are correlated over."""
POOLED, POOLED_ALL = "pooled", "pooled, all tokens"
Dictionaries = dict[str, dict[int, Dictionary]]
"""{tissue: {seed: its dictionary}}"""


def _reads(context: Context, *tissues: Tissue) -> dict[str, object]:
    """What every score depends on beside the dictionaries: which cells and genes, and the seed."""
    cells = array_digest(*(part for one in tissues for part in (one.source.test, one.some, one.genes)))
    return {"cells": cells, "layer": layer_index(context.config), "seed": context.config.seed}


def transfer(context: Context, tissues: list[Tissue], found: Dictionaries, pooled: dict[str, TopKSAE]) -> pd.DataFrame:
    """Return a row a dictionary and tissue that it is scored on: of, on, seed, fvu, l0, dead, fidelity_loss and _expression.

    Kept in the store, a dictionary and tissue at a time. Fidelity is of the first seed alone: a pass of the model a tissue.
    """
    rows: list[dict[str, object]] = []
    pairs = [(name, seed, one.sae) for name, seeds in found.items() for seed, one in seeds.items()]
    pairs += [(name, context.config.atlas.seeds[0], sae) for name, sae in pooled.items()]
    for tissue in tissues:
        for name, seed, sae in track(pairs, f"dictionaries on {tissue.name}", len(pairs)):
            rows.append({"of": name, "on": tissue.name, "seed": seed, **_scored(context, tissue, sae)})
        if context.config.atlas.fidelity and context.config.score.cells and context.config.model.tokens == "all":
            first = context.config.atlas.seeds[0]
            spliced = _spliced(context, tissue, {name: sae for name, seed, sae in pairs if seed == first})
            for row in rows:
                if row["on"] == tissue.name and row["seed"] == first and row["of"] in spliced.index:
                    row |= spliced.loc[row["of"]].to_dict()
    return pd.DataFrame(rows)


def _scored(context: Context, tissue: Tissue, sae: TopKSAE) -> dict[str, float]:
    def build(folder: Path) -> None:
        score = score_sae(sae, tissue.tokens, tissue.source.test)
        (folder / "scores.json").write_text(json.dumps({"fvu": score.fvu, "l0": score.l0, "dead": score.dead}))

    reads = {"what": "score", "sae": _digest(sae), **_reads(context, tissue)}
    path = built(context, "atlas-score", build, version=VERSION, reads=reads, parents=[tissue.source.artefact]).path
    return dict(json.loads((path / "scores.json").read_text()))


def _spliced(context: Context, tissue: Tissue, saes: dict[str, TopKSAE]) -> pd.DataFrame:
    config = tissue.context.config

    def build(folder: Path) -> None:
        model = load_steered_model(config)
        if model.predicts is None:
            pd.DataFrame({"dictionary": []}).to_csv(folder / "fidelity.csv", index=False)
            return
        device = next(model.parameters()).device
        cells = load_cells(config, model.genes)
        some = np.sort(np.random.default_rng([config.seed, 122]).permutation(tissue.source.test)[: config.score.cells])
        mean = np.concatenate(tissue.source.tokens.cells(tissue.source.fit_sample[:64])).mean(0)
        losses = splice_losses(
            model, cells[some], cells.valid, layer_index(config), {name: sae.to(device) for name, sae in saes.items()},
            torch.from_numpy(mean), masked_share=config.score.masked_share, seed=config.seed,
            batch_size=config.model.batch_size,
        )  # fmt: skip
        fidelity(losses).to_csv(folder / "fidelity.csv", index=False)

    reads: dict[str, object] = {
        "what": "fidelity",
        "saes": {name: _digest(sae) for name, sae in saes.items()},
        "score": as_dict(config.score),
    }
    reads |= _reads(context, tissue)
    path = built(context, "atlas-fidelity", build, version=VERSION, reads=reads, parents=[tissue.source.artefact]).path
    return pd.read_csv(path / "fidelity.csv", dtype={"dictionary": str}).set_index("dictionary")


def _digest(sae: TopKSAE) -> str:
    return array_digest(*(one.detach().cpu().numpy() for one in (sae.W_dec, sae.W_enc, sae.b_enc)))


def similarity(context: Context, tissues: list[Tissue], found: Dictionaries) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the mean similarity of every pair of tissues' features, over pairs of seeds, and that of random dictionaries.

    Columns a, b, cosine (of matched decoder rows), codes (of matched codes on held-out tokens of either). All are over
    pairs of different seeds: one initialisation makes dictionaries alike by itself.
    """

    def build(folder: Path) -> None:
        tokens = {one.name: sample_tokens(one.tokens, one.some, TOKENS, seed=context.config.seed) for one in tissues}
        saes = {(name, seed): one.sae for name, seeds in found.items() for seed, one in seeds.items()}
        rows = []
        for a, b in itertools.combinations_with_replacement(found, 2):
            seeds = [(i, j) for i in found[a] for j in found[b] if (i < j if a == b else i != j)]
            # wide dictionaries' codes are large: those of two tissues are held at once
            mine = {(name, seed, on): _codes(saes[name, seed], tokens[on])
                    for name in {a, b} for seed in found[name] for on in {a, b}}  # fmt: skip
            cosine, code = [], []
            for i, j in track(seeds, f"{a} and {b}", len(seeds)):
                cosine.append(_matched(saes[a, i], saes[b, j], mine[a, i, b], mine[b, j, b]))
                code += [code_similarity(mine[a, i, on], mine[b, j, on]) for on in dict.fromkeys((a, b))]
            rows.append({"a": a, "b": b, "cosine": np.mean(cosine), "codes": np.mean(code)})
        first, x = next(iter(saes.values())), tokens[tissues[0].name]
        one, two = (random_sae(x, first.n_features, first.k, seed=seed) for seed in (0, 1))
        drawn = _codes(one, x), _codes(two, x)
        chance = {"cosine": _matched(one, two, *drawn), "codes": code_similarity(*drawn)}
        pd.DataFrame(rows).to_csv(folder / "similarity.csv", index=False)
        (folder / "random.json").write_text(json.dumps(chance))

    parents = [one.artefact for seeds in found.values() for one in seeds.values()]
    reads = _reads(context, *tissues)
    path = built(context, "atlas-similarity", build, version=VERSION, reads=reads, parents=parents).path
    return pd.read_csv(path / "similarity.csv", dtype={"a": str, "b": str}), json.loads((path / "random.json").read_text())


def _codes(sae: TopKSAE, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(sae.encode(x).dense(sae.n_features).numpy())


def _matched(a: TopKSAE, b: TopKSAE, codes_a: np.ndarray, codes_b: np.ndarray) -> float:
    """Mean cosine of matched decoder rows, of features that fire on the tokens."""
    rows = [one.W_dec.detach().numpy()[(codes != 0).any(0)] for one, codes in ((a, codes_a), (b, codes_b))]
    return float(match(cosines(rows[0], rows[1])).similarity.mean()) if min(map(len, rows)) else 0.0


def train_pooled(context: Context, tissues: list[Tissue], n_tokens: int, seed: int) -> TopKSAE:
    """Return the dictionary of all tissues together, equal shares of tokens of each, from the store."""
    config = replace(context.config.sae, tokens=n_tokens, seed=seed)
    rng = np.random.default_rng([context.config.seed, 123])
    picked = equal_shares([one.source.tokens for one in tissues], [one.source.fit for one in tissues], rng)

    def build(folder: Path) -> None:
        joined = Joined([one.source.tokens for one in tissues])
        cells = np.concatenate([start + some for start, some in zip(joined.starts, picked, strict=True)])
        sae = train_sae(joined, cells, config, folder, device=pick_device(context.config.device))
        save_sae(sae, folder, {"atlas": as_dict(config)})

    settings = {name: value for name, value in as_dict(config).items() if name != "path"}
    cells = array_digest(*picked)
    reads = {"sae": settings, "cells": cells, "layer": layer_index(context.config)}
    parents = [one.source.artefact for one in tissues]
    return load_sae(built(context, "train-pooled", build, version=VERSION, reads=reads, parents=parents).path)


@dataclass(frozen=True)
class Features:
    """A pooled dictionary's features over the tissues.

    Attributes
    ----------
    table : evaluate.atlas.by_tissue
    shares : a row a condition (all cells; null; equal depth; a cell type): n cells, universal, shared, specific, and of the
        null lo and hi of specific
    depth : AUROC with which depth alone tells each tissue
    """

    table: pd.DataFrame
    shares: pd.DataFrame
    depth: dict[str, float]


def features(context: Context, tissues: list[Tissue], sae: TopKSAE) -> Features:
    """Return which features of a dictionary are of all tissues and which of one, with null and confounders."""
    config = context.config

    def build(folder: Path) -> None:
        np.savez(folder / "rates.npz", rates=np.concatenate([_rates(sae, one) for one in tissues]),
                 depth=np.concatenate([one.depth(one.some) for one in tissues]))  # fmt: skip

    reads = {"sae": _digest(sae), **_reads(context, *tissues)}
    parents = [one.source.artefact for one in tissues]
    path = built(context, "atlas-rates", build, version=VERSION, reads=reads, parents=parents).path
    with np.load(path / "rates.npz") as file:
        rates, depth = file["rates"], file["depth"]
    which = np.repeat([one.name for one in tissues], [len(one.some) for one in tissues])
    rng = np.random.default_rng([config.seed, 124])
    table = by_tissue(rates, which)
    drawn = null_shares(rates, which, config.atlas.n_permutations, rng)
    rows = [
        {"cells": "all", "n": len(which), **shares(table["kind"])},
        {"cells": "tissues dealt anew", "n": len(which), **drawn.mean().to_dict(),
         "lo": drawn["specific"].quantile(0.025), "hi": drawn["specific"].quantile(0.975)},
    ]  # fmt: skip
    kept = depth_matched(depth, which, rng)
    rows += _again("equal depth", rates, which, kept, config.atlas.n_permutations, rng)
    if config.atlas.match_label is not None:
        wanted = config.atlas.match_label.lower()
        labels = np.concatenate([one.labels(one.some) for one in tissues])
        mine = np.flatnonzero([wanted in label.lower() for label in labels])
        least = min(int((which[mine] == one.name).sum()) for one in tissues)
        rows += _again(
            f"'{config.atlas.match_label}'", rates, which, mine if least >= 4 else None, config.atlas.n_permutations, rng
        )
    return Features(table, pd.DataFrame(rows), depth_aurocs(depth, which))


def _again(
    name: str, rates: np.ndarray, which: np.ndarray, kept: np.ndarray | None, n: int, rng: np.random.Generator
) -> list[dict[str, object]]:
    """The shares within some of the cells, beside their own null; a row of nothing where there are too few."""
    if kept is None:
        return [{"cells": name, "n": 0}]
    drawn = null_shares(rates[kept], which[kept], n, rng)
    own = shares(by_tissue(rates[kept], which[kept])["kind"])
    bounds = {"lo": drawn["specific"].quantile(0.025), "hi": drawn["specific"].quantile(0.975)}
    return [{"cells": name, "n": len(kept), **own}, {"cells": f"{name}, dealt anew", "n": len(kept), **drawn.mean(), **bounds}]


def _rates(sae: TopKSAE, tissue: Tissue) -> np.ndarray:
    """Share of each cell's scored tokens at which each feature fires, float64 (n, F)."""
    rows = []
    with torch.no_grad():
        for x in tissue.tokens.cells(tissue.some):
            codes = sae.encode(torch.from_numpy(x))
            on = codes.indices[codes.values != 0]
            rows.append(torch.bincount(on, minlength=sae.n_features).numpy() / max(1, len(x)))
    return np.array(rows)


def dictionaries(tissues: list[Tissue], seeds: list[int]) -> Dictionaries:
    """Return every tissue's dictionaries, training those that are missing."""
    return {one.name: {seed: one.dictionary(seed) for seed in seeds} for one in tissues}
