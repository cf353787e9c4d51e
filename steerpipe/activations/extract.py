"""Run a model over a dataset: gene-token streams to shards, cell embeddings and predicted expression to arrays.

Cost with G genes, G_valid of them in the dataset: memory of one batch whatever the number of cells; disk
N * G_valid * D * 2 bytes (float16) for the streams and N * (G_valid + 2 D) * 4 bytes for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from ..device import mixed_precision
from ..models.aido_cell import AidoCell
from ..models.preprocess import model_input
from ..progress import track
from .shards import write_shard

ARRAYS = ("layer", "final", "expression")


def extract(
    model: AidoCell,
    counts: sp.csr_matrix,
    valid: np.ndarray,
    layer: int,
    folder: Path,
    *,
    dtype: str = "float16",
    shard_tokens: int = 131_072,
    batch_size: int = 8,
) -> None:
    """Store one layer's activations of every cell; a killed run resumes at the shard.

    Parameters
    ----------
    counts : raw counts (N, G) in the model's gene order
    valid : int64 (G_valid,), the gene positions that the dataset has: the only tokens that are stored
    layer : 0-based block whose output is stored
    folder : gets index.json, streams_*.npy (cells, G_valid, D), and layer.npy (N, D) = mean stream over valid genes,
        final.npy (N, D) = the same after the final LayerNorm, expression.npy (N, G_valid) = predicted log1p CP10K
    """
    device = next(model.parameters()).device
    per_shard = max(1, shard_tokens // len(valid))
    starts = range(0, counts.shape[0], per_shard)
    read = torch.from_numpy(valid).to(device)
    for number, start in enumerate(track(starts, "extract", len(starts))):
        if (folder / f"part_{number:05d}.npz").is_file():
            continue
        cells = range(start, min(start + per_shard, counts.shape[0]))
        streams = np.empty((len(cells), len(valid), model.arch.hidden_size), np.float32)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
        done = 0
        for stream in full_streams(model, counts[cells.start : cells.stop], layer, batch_size=batch_size):
            with torch.no_grad(), mixed_precision(device):
                output = model.forward_from(layer, stream, read)
            kept = stream[:, read].float()
            streams[done : done + len(kept)] = kept.cpu().numpy()
            done += len(kept)
            parts["layer"].append(kept.mean(dim=1).cpu().numpy())
            parts["final"].append(output.final.float().mean(dim=1).cpu().numpy())
            if output.expression is not None:
                parts["expression"].append(output.expression.float().cpu().numpy())
        write_shard(folder, number, streams, dtype)
        beside = folder / f"part_{number:05d}.tmp.npz"
        arrays: dict[str, Any] = {name: np.concatenate(rows) for name, rows in parts.items() if rows}
        np.savez(beside, **arrays)
        beside.rename(folder / f"part_{number:05d}.npz")  # last: it marks the shard as whole
    _join(folder, len(starts))
    index = {
        "layer": layer,
        "n_cells": counts.shape[0],
        "n_genes": len(valid),
        "width": model.arch.hidden_size,
        "cells_per_shard": per_shard,
        "tokens": "valid",
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def full_streams(model: AidoCell, counts: sp.csr_matrix, layer: int, *, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield the residual stream after block `layer`, (B, S, D) with every token, batch by batch."""
    device = next(model.parameters()).device
    for start in range(0, counts.shape[0], batch_size):
        values = model_input(counts[start : start + batch_size], model.arch.depth).to(device)
        with torch.no_grad(), mixed_precision(device):
            yield model.stream(values, layer)


def _join(folder: Path, n_parts: int) -> None:
    parts = [np.load(folder / f"part_{i:05d}.npz") for i in range(n_parts)]
    for name in parts[0].files:
        np.save(folder / f"{name}.npy", np.concatenate([part[name] for part in parts]))
    for i, part in enumerate(parts):
        part.close()
        (folder / f"part_{i:05d}.npz").unlink()
