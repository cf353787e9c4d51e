"""The contrast's cells, run through the whole model once: what every fit and score then reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations.extract import full_streams, model_inputs
from ..activations.shards import join_parts, save_array, save_part
from ..config import ModelConfig
from ..data.cells import CellSource
from ..data.contrast import Split
from ..device import mixed_precision
from ..models.base import PAD, CellModel, embedding, n_ids, read_out
from ..models.preprocess import MASK
from ..progress import track
from .intervene import CachedCells, MaskedReadout, State

CHUNK = 64
"""Cells after which a killed pass resumes."""


@dataclass(frozen=True)
class CellRows:
    """An array (n, ...) with a row for some of the dataset's cells, read by their positions in the dataset."""

    cells: np.ndarray
    values: np.ndarray

    def __getitem__(self, cells: np.ndarray) -> np.ndarray:
        rows: np.ndarray = np.asarray(self.values[np.searchsorted(self.cells, cells)])
        return rows


@dataclass(frozen=True)
class CellStates:
    """Embeddings (., D) at the steered layer and after the final LayerNorm, and predicted expression (., G_valid), None
    for a model without an output head: of the contrast's unsteered cells, by their positions in the dataset."""

    layer: CellRows
    final: CellRows
    predicted: CellRows | None

    def __getitem__(self, cells: np.ndarray) -> State:
        expression = np.zeros((len(cells), 0), np.float32) if self.predicted is None else self.predicted[cells]
        return State(self.layer[cells], self.final[cells], expression)


def run_contrast(model: CellModel, counts: CellSource, layer: int, split: Split, folder: Path, config: ModelConfig) -> None:
    """Run the contrast's cells through the whole model, held-out cells after the others; a killed run resumes at 64 cells.

    Rounding may depend on what else is in a batch, so no batch holds fit cells and held-out cells.

    Writes streams.npy float32 (n, S, D), every token of the cells in split.streamed at `layer`, in that order, and where cells
    have tokens of their own token_genes.npy int32 (n, S), their ids; counts.npy of their valid genes; and, for all cells in
    cells.npy, layer.npy and final.npy (., D), mean streams over valid genes, and expression.npy (., G_valid). With the masked
    readout also masked_NN.npy, streams with one group of genes masked, and groups.npy (G_valid,), each gene's group.
    Cost: disk n * S * D * 4 bytes, times 1 + the number of groups for the masked readout; memory of a batch.
    """
    parts = np.concatenate([split.source_fit, split.target_fit]), np.concatenate([split.source_held, split.target_held])
    chunks = [np.sort(cells)[start : start + CHUNK] for cells in parts for start in range(0, len(cells), CHUNK)]
    row_of = {int(cell): row for row, cell in enumerate(split.streamed)}
    valid = counts.valid
    read = torch.from_numpy(valid).to(next(model.parameters()).device)
    groups = gene_groups(len(valid), config)
    n_groups = 0 if groups is None else int(groups.max()) + 1
    ids = token_ids(model, counts, split.streamed)
    shape = (len(row_of), n_ids(model) if ids is None else ids.shape[1], model.arch.hidden_size)
    names = ["streams", *(f"masked_{group:02d}" for group in range(n_groups))]
    out = {name: _open(folder / f"{name}.npy", shape) for name in names}
    if ids is not None:
        save_array(folder / "token_genes.npy", ids)
    for number, some in enumerate(track(chunks, "streams", len(chunks))):
        part = folder / f"part_{number:05d}.npz"
        if part.is_file():
            continue
        arrays: dict[str, list[np.ndarray]] = {"layer": [], "final": [], "expression": []}
        done = 0
        for tokens in model_inputs(model, counts[some], config.batch_size):
            values = tokens.values
            batch = some[done : done + len(values)]
            done += len(values)
            with torch.no_grad(), mixed_precision(values.device):
                stream = model.stream(tokens, layer)
                output = read_out(model, layer, stream, tokens, read)
            _keep(out["streams"], row_of, batch, stream)
            expression = output.expression
            for group in range(n_groups if expression is not None else 0):
                columns = np.flatnonzero(groups == group)
                hidden = values.clone()
                hidden[:, read[columns]] = MASK
                with torch.no_grad(), mixed_precision(values.device):
                    masked = model.stream(tokens._replace(values=hidden), layer)
                    predicted = model.forward_from(layer, masked, read[columns]).expression
                assert expression is not None
                assert predicted is not None
                expression[:, columns] = predicted
                _keep(out[f"masked_{group:02d}"], row_of, batch, masked)
            arrays["layer"].append(embedding(model, stream, tokens, read).cpu().numpy())
            final = output.final.float().mean(1) if model.arch.fixed else embedding(model, output.final, tokens, read)
            arrays["final"].append(final.cpu().numpy())
            if expression is not None:
                arrays["expression"].append(expression.float().cpu().numpy())
        for file in out.values():
            file.flush()
        save_part(part, {name: np.concatenate(rows) for name, rows in arrays.items() if rows})  # last: the chunk is whole
    if groups is not None:
        np.save(folder / "groups.npy", groups)
    _finish(folder, chunks, counts, split)


def token_ids(model: CellModel, counts: CellSource, cells: np.ndarray) -> np.ndarray | None:
    """Return the ids of the tokens of some cells, int32 (n, S of the longest), in their order; None where all have the same."""
    if model.arch.fixed:
        return None
    found: list[np.ndarray] = []
    order = np.argsort(cells)  # a file is read forwards
    for start in range(0, len(order), CHUNK):
        for row in model.tokens(counts[cells[order[start : start + CHUNK]]]).genes.cpu().numpy():
            found.append(row[row != PAD])
    out = np.full((len(cells), max(map(len, found))), PAD, np.int32)
    for at, row in zip(order, found, strict=True):
        out[at, : len(row)] = row
    return out


def cache_cells(
    model: CellModel,
    counts: sp.csr_matrix,
    layer: int,
    valid: Tensor,
    *,
    batch_size: int,
    steered: Tensor | None = None,
) -> CachedCells:
    """Run some cells (n, G) up to a layer, and hold their streams in memory.

    Parameters
    ----------
    valid, steered : see CachedCells
    """
    parts = [(out[layer].float().cpu(), tokens) for tokens, out in full_streams(model, counts, [layer], batch_size=batch_size)]
    if model.arch.fixed:
        return CachedCells(model, layer, torch.cat([stream for stream, _ in parts]).numpy(), valid, steered=steered)
    longest = max(stream.shape[1] for stream, _ in parts)
    streams = [F.pad(stream, (0, 0, 0, longest - stream.shape[1])) for stream, _ in parts]
    ids = [F.pad(tokens.genes.cpu(), (0, longest - tokens.genes.shape[1]), value=PAD) for _, tokens in parts]
    genes = torch.cat(ids).numpy().astype(np.int32)
    return CachedCells(model, layer, torch.cat(streams).numpy(), valid, steered=steered, genes=genes)


def gene_groups(n_valid: int, config: ModelConfig) -> np.ndarray | None:
    """Return each valid gene's group (G_valid,), masked together in the masked readout; None for reconstruction."""
    if config.readout == "reconstruction":
        return None
    n_groups = int(np.ceil(1 / config.masked_share))
    return np.asarray(np.random.default_rng(0).permutation(n_valid) % n_groups)


def load_masked(folder: Path) -> tuple[MaskedReadout, ...]:
    """Return the masked readouts that run_contrast stored; none for reconstruction."""
    if not (folder / "groups.npy").is_file():
        return ()
    groups = np.load(folder / "groups.npy")
    files = sorted(folder.glob("masked_*.npy"))
    return tuple(MaskedReadout(np.load(file, mmap_mode="r"), np.flatnonzero(groups == i)) for i, file in enumerate(files))


def readout_key(config: ModelConfig) -> dict[str, Any]:
    """Return what of a readout identifies stored streams."""
    return {} if config.readout == "reconstruction" else {"readout": config.readout, "masked_share": config.masked_share}


def _open(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    if not path.is_file():  # made beside: a killed run must not leave one that is too short to map
        beside = path.with_suffix(".tmp")
        np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=shape).flush()
        beside.replace(path)
    return np.lib.format.open_memmap(path, mode="r+", dtype=np.float32, shape=shape)


def _keep(out: np.ndarray, row_of: dict[int, int], cells: np.ndarray, stream: Tensor) -> None:
    """Store the streams of those of the cells that have a row; they leave the device at once."""
    there = [(row_of[int(cell)], i) for i, cell in enumerate(cells) if int(cell) in row_of]
    if there:
        rows, places = zip(*there, strict=True)
        out[list(rows), : stream.shape[1]] = stream[list(places)].float().cpu().numpy()


def _finish(folder: Path, chunks: list[np.ndarray], counts: CellSource, split: Split) -> None:
    files = [folder / f"part_{number:05d}.npz" for number in range(len(chunks))]
    cells = np.concatenate(chunks)
    ascending = np.argsort(cells)
    for name, values in join_parts(files).items():
        np.save(folder / f"{name}.npy", values[ascending])
    np.save(folder / "cells.npy", cells[ascending])
    order = np.argsort(split.streamed)
    by_row = np.empty((len(order), len(counts.valid)), np.float32)
    by_row[order] = counts[split.streamed[order]][:, counts.valid].toarray()
    np.save(folder / "counts.npy", by_row)
    for file in files:
        file.unlink()
