"""Run a model's lower blocks over cells: gene-token streams to shards, or straight into training.

Nothing above the highest layer is run. Cost: memory of one shard and one batch whatever the number of cells; disk
N * tokens * D * 2 bytes a layer in float16 (`steer extract --plan` prints it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..device import give_memory_back, mixed_precision
from ..models.aido_cell import AidoCell
from ..models.base import PAD, CellModel, Tokens
from ..models.preprocess import model_input
from ..progress import track
from .shards import join_parts, layer_folder, save_array, save_part, write_index, write_shard
from .tokens import TokenPolicy, TokenSource


class Counts(Protocol):
    """Raw counts (N, G) in a model's gene order, read by rows: a CSR matrix, or data.cells.CellSource."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def __getitem__(self, rows: Any) -> sp.csr_matrix: ...


def extract(
    model: CellModel,
    counts: Counts,
    valid: np.ndarray,
    layers: Sequence[int],
    folder: Path,
    *,
    policy: TokenPolicy = TokenPolicy(),
    dtype: str = "float16",
    shard_tokens: int = 131_072,
    batch_size: int = 8,
    subset: bool = False,
    part: tuple[int, int] = (0, 1),
) -> bool:
    """Store the activations of every cell at some layers, in one pass; a killed run resumes at the shard.

    Parameters
    ----------
    counts : raw counts (N, G) in the model's gene order
    valid : int64 (G_valid,), the gene positions that the dataset has: the only tokens that are stored
    layers : 0-based blocks whose output is stored
    folder : gets index.json, offsets.npy, tokens_*.npy (int32 column among the valid genes of each token, where the
        policy drops some), and for every layer layer_NN/streams_*.npy (n_tokens, D) and mean.npy (N, D), the mean
        stream over valid genes
    subset : run each cell on its expressed genes alone, an approximation (the model was trained on all genes)
    part : (i, n): of the shards, only every n-th from i, as one of n processes; a call without it joins them

    Returns
    -------
    bool
        whether every shard is there (the index is written by a call without `part`)
    """
    per_shard = max(1, shard_tokens // policy.most(len(valid)))
    starts = range(0, counts.shape[0], per_shard)
    mine = [number for number in range(len(starts)) if number % part[1] == part[0]]
    for layer in layers:
        layer_folder(folder, layer).mkdir(exist_ok=True)
    for number in track(mine, "extract", len(mine)):
        if not (folder / f"part_{number:05d}.npz").is_file():
            cells = range(starts[number], min(starts[number] + per_shard, counts.shape[0]))
            _extract_shard(model, counts, cells, valid, layers, folder, number, policy, dtype, batch_size, subset)
            give_memory_back()
    files = sorted(folder.glob("part_?????.npz"))
    done = len(files) == len(starts)
    if done and part == (0, 1):
        joined = join_parts(files)
        for layer in layers:
            save_array(layer_folder(folder, layer) / "mean.npy", joined[f"mean_{layer}"])
        write_index(folder, list(layers), joined["lengths"], len(valid), per_shard, policy)
        for file in files:
            file.unlink()
    return done


def _extract_shard(
    model: CellModel,
    counts: Counts,
    cells: range,
    valid: np.ndarray,
    layers: Sequence[int],
    folder: Path,
    number: int,
    policy: TokenPolicy,
    dtype: str,
    batch_size: int,
    subset: bool,
) -> None:
    rows = counts[cells.start : cells.stop]
    kept: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    means: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    batch: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    columns: list[np.ndarray] = []
    steps = cell_streams(model, rows, valid, layers, batch_size=batch_size, subset=subset)
    for at, (there, streams) in enumerate(steps):
        # with a subset, and in models whose cells have tokens of their own, not all genes have a stream
        where = policy.columns(cells.start + at, rows[at, valid].toarray()[0][there])
        columns.append(there[where])
        for layer, stream in streams.items():
            batch[layer].append((stream[where], stream.mean(0)))
        if len(columns) % batch_size and at + 1 < len(cells):
            continue
        for layer, some in batch.items():  # a batch leaves the device at once
            kept[layer].append(torch.cat([tokens for tokens, _ in some]).cpu().numpy())
            means[layer].append(torch.stack([mean for _, mean in some]).cpu().numpy())
            some.clear()
    for layer in layers:
        write_shard(layer_folder(folder, layer), number, np.concatenate(kept[layer]), dtype)
    if policy.kind != "valid":
        save_array(folder / f"tokens_{number:05d}.npy", np.concatenate(columns).astype(np.int32))
    arrays = {f"mean_{layer}": np.concatenate(some) for layer, some in means.items()}
    arrays["lengths"] = np.array([len(c) for c in columns])
    save_part(folder / f"part_{number:05d}.npz", arrays)  # last: it marks the shard as whole


def cell_streams(
    model: CellModel, counts: sp.csr_matrix, valid: np.ndarray, layers: Sequence[int], *, batch_size: int, subset: bool = False
) -> Iterator[tuple[np.ndarray, dict[int, Tensor]]]:
    """Yield, cell by cell, (columns of `valid` that ran (n,), ascending, {layer: float32 stream (n, D) of those})."""
    if subset:
        assert isinstance(model, AidoCell)
        for i in range(counts.shape[0]):
            there, streams = expressed_streams(model, counts[i : i + 1], valid, layers)
            yield there, {layer: stream[0, :-2].float() for layer, stream in streams.items()}
        return
    if not model.arch.fixed:
        yield from _own_tokens(model, counts, valid, layers, batch_size)
        return
    read = torch.from_numpy(valid).to(_device(model))
    for _, batch in full_streams(model, counts, layers, batch_size=batch_size, read=read):
        gene_streams = {layer: stream.float() for layer, stream in batch.items()}
        for i in range(len(next(iter(batch.values())))):
            yield np.arange(len(valid)), {layer: stream[i] for layer, stream in gene_streams.items()}


def _own_tokens(
    model: CellModel, counts: sp.csr_matrix, valid: np.ndarray, layers: Sequence[int], batch_size: int
) -> Iterator[tuple[np.ndarray, dict[int, Tensor]]]:
    """Yield what cell_streams does, of cells with tokens of their own: those of like length run together."""
    order = np.argsort(np.diff(counts.indptr), kind="stable")
    found: dict[int, tuple[np.ndarray, dict[int, Tensor]]] = {}
    steps = full_streams(model, counts[order], layers, batch_size=batch_size)
    for tokens, batch in steps:
        for i, ids in enumerate(tokens.genes.cpu().numpy()):
            at = np.flatnonzero((ids != PAD) & (ids < len(model.genes)))
            at = at[np.argsort(ids[at])]
            streams = {layer: stream[i, torch.from_numpy(at).to(stream.device)].float() for layer, stream in batch.items()}
            found[int(order[len(found)])] = np.searchsorted(valid, ids[at]), streams
    yield from (found[i] for i in range(counts.shape[0]))


def full_streams(
    model: CellModel, counts: sp.csr_matrix, layers: Sequence[int], *, batch_size: int, read: Tensor | None = None
) -> Iterator[tuple[Tokens, dict[int, Tensor]]]:
    """Yield (tokens, {layer: residual stream (B, S, D)}), batch by batch: of every token, or of the ids `read` (R,) alone."""
    for tokens in model_inputs(model, counts, batch_size):
        with torch.no_grad(), mixed_precision(tokens.device):
            streams = model.streams(tokens, layers, read=read)
        yield tokens, streams


def model_inputs(model: CellModel, counts: sp.csr_matrix, batch_size: int) -> Iterator[Tokens]:
    """Yield the model's tokens on its device, batch by batch."""
    for start in range(0, counts.shape[0], batch_size):
        yield model.tokens(counts[start : start + batch_size])


def expressed_streams(
    model: AidoCell, counts: sp.csr_matrix, valid: np.ndarray, layers: Sequence[int]
) -> tuple[np.ndarray, dict[int, Tensor]]:
    """Run one cell (1, G) on its expressed genes and the depth tokens alone, at their true positions: an approximation.

    Returns
    -------
    (columns of `valid` that ran, {layer: (1, n + 2, D)})
    """
    device = _device(model)
    there = np.flatnonzero(counts[0, valid].toarray()[0] > 0)
    positions = torch.from_numpy(np.concatenate([valid[there], [model.n_genes, model.n_genes + 1]])).to(device)
    values = model_input(counts, model.arch.depth).to(device)[:, positions]
    with torch.no_grad(), mixed_precision(device):
        return there, model.streams(values, layers, positions)


class OnlineStreams(TokenSource):
    """Activations that the model computes when they are asked for, and that no disk ever holds.

    Every pass over the cells runs the lower blocks again: training on T tokens costs T / tokens-per-cell cell passes.
    """

    def __init__(
        self,
        model: CellModel,
        counts: Counts,
        valid: np.ndarray,
        layer: int,
        policy: TokenPolicy,
        *,
        batch_size: int,
        subset: bool = False,
    ) -> None:
        self.model, self.counts, self.valid, self.layer, self.policy = model, counts, valid, layer, policy
        self.batch_size, self.subset = batch_size, subset
        self.n_cells, self.n_genes, self.width = counts.shape[0], len(valid), model.arch.hidden_size

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        if self.policy.kind == "expressed" or not self.model.arch.fixed:  # counts alone: the model is not run
            return np.array([len(columns) for columns in self.columns(ids)], np.int64)
        return super().lengths(ids)

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        order = np.sort(ids)  # a file is read forwards
        rows = self.counts[order]
        steps = cell_streams(self.model, rows, self.valid, [self.layer], batch_size=self.batch_size, subset=self.subset)
        found = {}
        for at, (there, streams) in enumerate(steps):
            where = self.policy.columns(int(order[at]), rows[at, self.valid].toarray()[0][there])
            found[int(order[at])] = streams[self.layer][where].cpu().numpy()
        return [found[int(i)] for i in ids]

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        order = np.sort(ids)
        rows = self.counts[order]
        counts, own = rows[:, self.valid], self.model.gene_ids(rows)
        found = {}
        for at, i in enumerate(order):
            there = np.arange(len(self.valid)) if own is None else np.searchsorted(self.valid, np.sort(own[at]))
            found[int(i)] = there[self.policy.columns(int(i), counts[at].toarray()[0][there])]
        return [found[int(i)] for i in ids]


def _device(model: CellModel) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
