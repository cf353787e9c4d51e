"""Where features fire: the feature x gene matrix, and each cell type's share of it, streamed over tokens.

Letters: F features, G valid genes, T cell types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from ..activations.extract import Counts
from ..activations.tokens import TokenSource
from ..progress import track
from ..sae.baselines import FeatureDictionary

CELLS_AT_ONCE = 16
HALVES = ("label", "score")


@dataclass(frozen=True)
class Activity:
    """Sums over cells of what a dictionary's features do.

    Attributes
    ----------
    sums : float32 (2, F, G), sum of |z| at each gene over the cells of each half
    tokens : int64 (2, G), tokens that each gene has in each half: the cells where it is valid and stored
    density : float64 (F,), share of tokens on which a feature fires
    expressed : float64 (F,), share of its |z| at tokens whose gene has a count in that cell; NaN for a dead feature. A feature
        of low share marks genes that are silent: its terms say what the cell is not
    types : names of the T cell types, sorted; cells: int64 (T,) how many there are
    type_mean, type_square : float64 (T, F), mean over a type's cells of a cell's mean |z|, and of its square
    type_genes : int64 (T, F, n), each type's n genes of largest mean |z|, best first; -1 where fewer are above 0
    """

    sums: np.ndarray
    tokens: np.ndarray
    density: np.ndarray
    expressed: np.ndarray
    types: tuple[str, ...]
    cells: np.ndarray
    type_mean: np.ndarray
    type_square: np.ndarray
    type_genes: np.ndarray

    def matrix(self, half: str | None = None) -> np.ndarray:
        """Return M float32 (F, G): mean over cells of |z| at each gene, on all cells or on one half (label, score)."""
        if half is not None:
            i = HALVES.index(half)
            return np.asarray(self.sums[i] / np.maximum(self.tokens[i], 1).astype(np.float32))
        return np.asarray((self.sums[0] + self.sums[1]) / np.maximum(self.tokens.sum(0), 1).astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write sums.npy and activity.npz."""
        np.save(folder / "sums.npy", self.sums)
        names = ("tokens", "density", "expressed", "cells", "type_mean", "type_square", "type_genes")
        np.savez(folder / "activity.npz", types=np.array(self.types, str), **{name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path) -> Activity:
        """Read what `save` wrote; the sums stay on disk."""
        with np.load(folder / "activity.npz") as file:
            arrays = {name: file[name] for name in file.files}
        types = tuple(arrays.pop("types").tolist())
        return cls(np.load(folder / "sums.npy", mmap_mode="r"), types=types, **arrays)


def halve_cells(types: Sequence[str], seed: int) -> np.ndarray:
    """Return bool (N,): True for the half that features are scored on; every type is dealt out evenly."""
    labels = np.asarray(types)
    out = np.zeros(len(labels), bool)
    rng = np.random.default_rng([seed, 21])
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        extra = int(rng.integers(2)) if len(members) % 2 else 0
        out[members[: len(members) // 2 + extra]] = True
    return out


def feature_activity(
    dictionary: FeatureDictionary,
    source: TokenSource,
    types: Sequence[str],
    counts: Counts,
    valid: np.ndarray,
    *,
    cells: np.ndarray | None = None,
    seed: int = 0,
    n_genes: int = 20,
) -> Activity:
    """Stream every stored token of some cells once through a dictionary.

    Memory: 3 F G floats of 4 bytes (both halves, and the one cell type at hand; at F 10,400 and G 19,000 that is 2.4 GB),
    whatever the number of cells and of types. Time: the dictionary's encoder over all tokens.

    Parameters
    ----------
    types : (n,) type of each of the cells; one name for all where there are no labels
    counts, valid : raw counts (N, G_model), read by rows, and the positions of the G valid genes in them
    cells : int64 (n,), positions of the cells, no other is read; None for all
    seed : of the halves, into which the n cells are dealt
    n_genes : genes kept of each type
    """
    labels = np.asarray(types)
    cells = np.arange(len(labels)) if cells is None else cells
    names, F, G = sorted(set(labels.tolist())), dictionary.n_features, source.n_genes
    second = halve_cells(types, seed)
    mass, lit = np.zeros(F), np.zeros(F)
    sums, tokens = np.zeros((2, G, F), np.float32), np.zeros((2, G), np.int64)
    means, squares, fired = np.zeros((len(names), F)), np.zeros((len(names), F)), np.zeros(F, np.int64)
    top = np.full((len(names), F, n_genes), -1, np.int64)
    here = np.zeros((G, F), np.float32)
    sizes = np.array([(labels == name).sum() for name in names])
    bar = iter(track(range(len(labels)), "annotate", len(labels)))
    for t, name in enumerate(names):
        here[:] = 0
        seen = np.zeros(G, np.int64)
        members = np.flatnonzero(labels == name)
        codes = _codes(dictionary, source, cells[members], counts, valid)
        for at, (columns, there, values, indices) in zip(members, codes, strict=True):
            next(bar)
            half = int(second[at])
            per_cell = np.zeros(F)
            _add(columns, there, values, indices, sums[half], here, per_cell, lit, fired)
            mass += per_cell
            tokens[half, columns] += 1
            seen[columns] += 1
            per_cell /= max(1, len(columns))
            means[t] += per_cell
            squares[t] += per_cell**2
        top[t, :, : min(n_genes, G)] = top_genes(here.T / np.maximum(seen, 1).astype(np.float32), n_genes)
    next(bar, None)
    n_tokens = int(tokens.sum())
    del here
    return Activity(
        np.ascontiguousarray(sums.transpose(0, 2, 1)),
        tokens,
        fired / max(1, n_tokens),
        np.where(mass > 0, lit / np.where(mass > 0, mass, 1), np.nan),
        tuple(names),
        sizes,
        means / sizes[:, None],
        squares / sizes[:, None],
        top,
    )


class CellCodes(NamedTuple):
    """What a dictionary's features do in some cells, means over a cell's stored tokens, float32.

    Attributes
    ----------
    size, signed : (n, F) mean |z|, and mean z
    streams : (n, D) mean activation
    """

    size: np.ndarray
    signed: np.ndarray
    streams: np.ndarray


def cell_codes(dictionary: FeatureDictionary, source: TokenSource, cells: np.ndarray) -> CellCodes:
    """Return what a dictionary's features do in each of some cells. Time: its encoder over their tokens."""
    F = dictionary.n_features
    size, signed = np.zeros((len(cells), F), np.float32), np.zeros((len(cells), F), np.float32)
    streams = np.zeros((len(cells), source.width), np.float32)
    tokens = track(source.cell_by_cell(cells, at_once=CELLS_AT_ONCE), "features", len(cells))
    for i, (columns, x) in enumerate(tokens):
        with torch.no_grad():
            found = dictionary.at(columns).encode(torch.from_numpy(x).to(dictionary.W_dec.device))
        z, at = found.values.double().cpu().numpy().ravel(), found.indices.cpu().numpy().ravel()
        size[i], signed[i] = (np.bincount(at, values, F) / max(1, len(x)) for values in (np.abs(z), z))
        streams[i] = x.mean(0)
    return CellCodes(size, signed, streams)


def top_genes(M: np.ndarray, n: int, *, rows: int = 1024) -> np.ndarray:
    """Return the columns of each row's n largest values, int64 (F, n), best first; -1 where the value is 0."""
    n = min(n, M.shape[1])
    out = np.empty((M.shape[0], n), np.int64)
    for start in range(0, M.shape[0], rows):
        block = np.asarray(M[start : start + rows])
        order = np.argsort(-block, axis=1, kind="stable")[:, :n]  # stable: ties go to the earlier gene
        out[start : start + rows] = np.where(np.take_along_axis(block, order, 1) > 0, order, -1)
    return out


def _codes(
    dictionary: FeatureDictionary, source: TokenSource, cells: np.ndarray, counts: Counts, valid: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, cell by cell, its tokens' gene columns, whether the gene has a count, codes float32 and indices int64 (n, K)."""
    device = dictionary.W_dec.device
    for start in range(0, len(cells), CELLS_AT_ONCE):
        some = cells[start : start + CELLS_AT_ONCE]
        expressed = np.asarray((counts[some][:, valid] > 0).todense())
        for row, columns, x in zip(range(len(some)), source.columns(some), source.cells(some), strict=True):
            with torch.no_grad():
                codes = dictionary.at(columns).encode(torch.from_numpy(x).to(device))
            indices = np.ascontiguousarray(codes.indices.cpu().numpy())
            there = expressed[row, columns]
            yield columns.astype(np.int64), there, codes.values.float().cpu().numpy(), indices


@njit(cache=True)
def _add(
    columns: np.ndarray,
    there: np.ndarray,
    values: np.ndarray,
    indices: np.ndarray,
    half: np.ndarray,
    here: np.ndarray,
    per_cell: np.ndarray,
    lit: np.ndarray,
    fired: np.ndarray,
) -> None:
    """Add the codes of one cell's tokens to (G, F) sums, gene by gene: one row of F stays in the cache."""
    for i in range(len(columns)):
        gene = columns[i]
        for k in range(values.shape[1]):
            size = abs(values[i, k])
            if size > 0:
                f = indices[i, k]
                half[gene, f] += size
                here[gene, f] += size
                per_cell[f] += size
                if there[i]:
                    lit[f] += size
                fired[f] += 1
