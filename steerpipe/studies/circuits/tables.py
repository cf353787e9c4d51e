"""The tables beside the edges: gradients against ablations, and what a source does to genes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ...interpret.enrichment import enrich
from ...pipeline.annotation import inputs
from ...progress import track
from . import attribution
from .ablation import level_name
from .carriers import strongest
from .explore import Exploration
from .network import HEAD

TRUSTED = 0.5
"""Rank correlation with the ablations above which gradients may choose what is ablated next."""
SCREENED = 20


def attributions(explored: Exploration) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare gradients with ablations on pairs that were tested, and screen those that were not.

    Returns
    -------
    tuple of DataFrame
        a row a tested pair: layer, source, to, target, attribution, ablation (mean change over the same cells); and of each
        two layers whose rank correlation is above .5 the untested pairs of largest attribution
    """
    config, network = explored.config, explored.circuit.network
    tested, screened = [], []
    todo = [j.block for j in explored.judged if isinstance(j.block.level, int)] if config.n_targets else []
    for block in track(todo, "attribution", len(todo)):
        assert isinstance(block.level, int)
        rng = np.random.default_rng([config.seed, block.layer, block.level, 64])
        targets = np.sort(rng.choice(block.targets, min(config.n_targets, len(block.targets)), replace=False))
        found = attribution.attributions(
            network, block.layer, block.level, targets, explored.codes[block.layer], n_cells=config.gradient_cells
        )
        n = len(found)
        for source in block.sources:
            response = next(explored.responses[block.layer].of(int(source)))[1]
            mine = response.cells < n
            if not mine.any():
                continue
            columns = {"layer": block.layer, "source": source, "to": level_name(block.level), "target": targets}
            columns["attribution"] = found[response.cells[mine], source].mean(0)
            columns["ablation"] = response.changes[block.level][mine][:, targets].mean(0)
            tested.append(pd.DataFrame(columns))
        mean = found.mean(0)
        mean[block.sources] = 0
        i, j = np.unravel_index(np.argsort(-np.abs(mean), axis=None)[:SCREENED], mean.shape)
        columns = {"layer": block.layer, "source": i, "to": level_name(block.level), "target": targets[j]}
        screened.append(pd.DataFrame(columns | {"attribution": mean[i, j]}))
    if not tested:
        return pd.DataFrame(), pd.DataFrame()
    table = pd.concat(tested, ignore_index=True)
    rho = correlations(table)
    trusted = [s for s in screened if rho.get((s["layer"].iloc[0], s["to"].iloc[0]), 0) > TRUSTED]
    return table, pd.concat(trusted, ignore_index=True) if trusted else pd.DataFrame()


def head(explored: Exploration) -> pd.DataFrame:
    """Return what each source does to predicted expression: a row a source, the genes it moves most, and their GO."""
    given = inputs(explored.at(explored.circuit.layers[0]))
    background = np.flatnonzero(given.expressed)
    column = np.full(len(explored.circuit.genes), -1)
    column[background] = np.arange(len(background))
    rows, lists = [], []
    for one in explored.judged:
        if one.block.level != HEAD:
            continue
        for i, source in enumerate(one.block.sources):
            effect = np.zeros(len(explored.circuit.genes))
            effect[one.block.targets] = one.block.effects.effect[i]
            top = strongest(effect, background, explored.config.n_genes)
            lists.append(np.sort(column[top]))
            signs = {"falls_when_off": top[effect[top] < 0], "rises_when_off": top[effect[top] > 0]}
            names = {name: ", ".join(explored.circuit.genes[g] for g in some[:8]) for name, some in signs.items()}
            size = {"largest": float(np.abs(effect).max()), "edges": int(one.edge[i].sum())}
            rows.append({"layer": one.block.layer, "source": int(source), **size, **names})
    table = pd.DataFrame(rows)
    if not len(table):
        return table
    indptr = np.r_[0, np.cumsum([len(some) for some in lists])]
    ones = np.ones(indptr[-1], np.int32)
    matrix = sp.csr_matrix((ones, np.concatenate(lists), indptr), shape=(len(lists), len(background)))
    hits = enrich(matrix, given.library(given.sets).sets)
    table["term"], table["q"] = "", np.nan
    for pair in hits.best():
        table.loc[hits.feature[pair], ["term", "q"]] = given.sets.terms[hits.term[pair]], hits.q[pair]
    return table


def correlations(tested: pd.DataFrame) -> dict[tuple[int, str], float]:
    """{(layer, to): rank correlation of attributions with ablations}."""
    if not len(tested):
        return {}
    return {
        key: attribution.rank_correlation(some["attribution"].to_numpy(), some["ablation"].to_numpy())
        for key, some in tested.groupby(["layer", "to"])
    }
