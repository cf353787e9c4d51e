"""Every tested pair of a circuit, with its nulls, and the edges among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from . import ablation, edges
from .network import HEAD, Level


class Null(NamedTuple):
    """The null trials of one source: |effect| and p, float64 (R, J)."""

    size: np.ndarray
    p: np.ndarray


@dataclass(frozen=True)
class Block:
    """All sources of a layer against the targets of one level.

    Attributes
    ----------
    sources : int64 (I,); targets : int64 (J,), features of the level, or valid genes at the head
    n_cells : int64 (I,), in which the source fires
    effects, p : of the ablations, (I, J) each
    doubled : float64 (I, J), effect at theta = +1; None where it was not run
    directions, matched : of each source
    firing : float64 (I,), share of the tokens at which the source fires
    """

    layer: int
    level: Level
    sources: np.ndarray
    targets: np.ndarray
    n_cells: np.ndarray
    effects: edges.Effects
    p: np.ndarray
    doubled: np.ndarray | None
    directions: list[Null]
    matched: list[Null]
    firing: np.ndarray


class Judged(NamedTuple):
    """A block's pairs after Benjamini and Hochberg over the pairs of all blocks.

    Attributes
    ----------
    q : float64 (I, J)
    sizes : float64 (I, J), |effect| where q is small, else 0
    edge : bool (I, J), sizes from the cut on
    """

    block: Block
    q: np.ndarray
    sizes: np.ndarray
    cut: edges.Cut
    edge: np.ndarray


Recorded = Iterable[tuple[ablation.Trial, ablation.Response]]


def measure(
    layer: int,
    level: Level,
    sources: np.ndarray,
    recorded: Iterable[Recorded],
    clean: np.ndarray,
    firing: np.ndarray,
    *,
    min_cells: int,
    n_permutations: int,
    rng: np.random.Generator,
) -> Block:
    """Summarise the recorded trials of each source at one level.

    Parameters
    ----------
    clean : (N, .) readings at the level without any edit; a target is tested where it is not 0 in min_cells cells
    firing : (F,), of the layer's features
    """
    targets = np.flatnonzero((clean != 0).sum(0) >= min_cells)
    own, p, doubled, n_cells = [], [], [], []
    nulls: dict[str, list[Null]] = {ablation.DIRECTION: [], ablation.MATCHED: []}
    for trials in recorded:
        mine: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in nulls}
        for trial, response in trials:
            change = response.changes[level][:, targets]
            if trial.kind == ablation.DOSE:
                doubled.append(change.mean(0, dtype=np.float64))
                continue
            if len(change) < 2:  # a matched feature may fire in one cell alone
                continue
            found = edges.effects(change)
            chance = edges.sign_flip_p(change, n_permutations, rng)
            if trial.kind == ablation.FEATURE:
                own.append(found)
                p.append(chance)
                n_cells.append(len(change))
            else:
                mine[trial.kind].append((np.abs(found.effect), chance))
        for kind, rows in mine.items():
            empty = np.zeros((0, len(targets)))
            nulls[kind].append(Null(*(np.stack(x) if x else empty for x in (zip(*rows, strict=True) if rows else ((), ())))))
    return Block(
        layer,
        level,
        sources,
        targets,
        np.array(n_cells),
        edges.Effects(*(np.stack(x) for x in zip(*own, strict=True))),
        np.stack(p),
        np.stack(doubled) if doubled else None,
        nulls[ablation.DIRECTION],
        nulls[ablation.MATCHED],
        firing[sources],
    )


def judge(blocks: Sequence[Block], level: float) -> list[Judged]:
    """Find each block's edges: q below the level over the pairs of all blocks, and a size at which the nulls give few.

    A null's pair counts where its own p is one that would have made an edge.
    """
    p = np.concatenate([block.p.ravel() for block in blocks])
    q = stats.false_discovery_control(p)
    largest = p[q < level].max(initial=0.0)
    found = []
    for block, own in zip(blocks, np.split(q, np.cumsum([b.p.size for b in blocks])[:-1]), strict=True):
        sizes = np.where(block.p <= largest, np.abs(block.effects.effect), 0.0)
        directions, matched = (
            [np.where(null.p <= largest, null.size, 0.0) for null in some] for some in (block.directions, block.matched)
        )
        cut = edges.empirical_cut(sizes, directions, matched, level)
        found.append(Judged(block, own.reshape(block.p.shape), sizes, cut, sizes >= cut.size))
    return found


def edge_table(judged: Sequence[Judged], genes: Sequence[str]) -> pd.DataFrame:
    """Return one row an edge, those of each two levels together, the strongest first.

    Columns: layer, source, to, target (a feature's number or a gene), edge, effect, d, consistency, p, q, cells;
    effect_doubled where sources were doubled too.
    """
    return _table([_rows(one, np.nonzero(one.edge), genes) for one in judged])


def strongest_table(judged: Sequence[Judged], genes: Sequence[str], n: int) -> pd.DataFrame:
    """Return each source's n largest effects of small q on each level, whether edges or not; columns of edge_table."""
    frames = []
    for one in judged:
        rank = np.argsort(np.argsort(-one.sizes, axis=1, kind="stable"), axis=1)
        frames.append(_rows(one, np.nonzero((rank < n) & (one.sizes > 0)), genes))
    return _table(frames)


def _table(frames: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(frames, ignore_index=True)
    table = table.iloc[np.argsort(-table["effect"].abs().to_numpy(), kind="stable")]
    return table.sort_values(["layer", "to"], kind="stable", ignore_index=True)


def _rows(one: Judged, where: tuple[np.ndarray, ...], genes: Sequence[str]) -> pd.DataFrame:
    block, (i, j) = one.block, where
    head = block.level == HEAD
    columns = {
        "layer": block.layer,
        "source": block.sources[i],
        "to": ablation.level_name(block.level),
        "target": [genes[t] if head else str(t) for t in block.targets[j]],
        "edge": one.edge[where],
        "effect": block.effects.effect[where],
        "d": block.effects.d[where],
        "consistency": block.effects.consistency[where],
        "p": block.p[where],
        "q": one.q[where],
        "cells": block.n_cells[i],
    }
    if block.doubled is not None:
        columns["effect_doubled"] = block.doubled[where]
    return pd.DataFrame(columns)


def summary(one: Judged) -> dict[str, float | int | str]:
    """Return the row of a block: what was tested, the cut, and how far the degree of a source is its firing rate."""
    block = one.block
    degree = one.edge.sum(1)
    varies = len(degree) > 2 and np.ptp(degree) > 0 and np.ptp(block.firing) > 0
    rho = float(stats.spearmanr(degree, block.firing).statistic) if varies else float("nan")
    return {
        "layer": block.layer,
        "to": ablation.level_name(block.level),
        "sources": len(block.sources),
        "targets": len(block.targets),
        "pairs": block.p.size,
        "small_q": int((one.sizes > 0).sum()),
        "cut": one.cut.size,
        "edges": int(one.edge.sum()),
        "fdr_direction": one.cut.fdr_direction,
        "fdr_matched": one.cut.fdr_matched,
        "degree_firing_rho": rho,
    }
