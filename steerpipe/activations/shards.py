"""Gene-token activations on disk: flat memory-mapped shards of whole cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .tokens import TokenPolicy, TokenSource

FP16_MAX = 60_000.0
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
"""Bytes of a stored value; bfloat16, which numpy does not know, is stored as uint16."""


def layer_folder(folder: Path, layer: int) -> Path:
    """Return where a layer's shards are."""
    return folder / f"layer_{layer:02d}"


def write_shard(folder: Path, number: int, tokens: np.ndarray, dtype: str) -> None:
    """Write the activations (n_tokens, D) of consecutive cells; values beyond float16's range keep float32."""
    if dtype == "bfloat16":
        stored = torch.from_numpy(tokens).bfloat16().view(torch.uint16).numpy()
    else:
        wide = dtype == "float32" or (tokens.size > 0 and np.abs(tokens).max() > FP16_MAX)
        stored = tokens.astype(np.float32 if wide else np.float16)
    save_array(folder / f"streams_{number:05d}.npy", stored)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file beside, then rename it."""
    beside = path.with_suffix(".tmp")  # no .npy: a reader that globs must not find what a killed run left
    with beside.open("wb") as file:
        np.save(file, array)
    beside.replace(path)


def save_part(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the .npz that marks one piece of work as whole: beside, then a rename."""
    beside = path.with_suffix(".tmp.npz")
    stored: dict[str, Any] = dict(arrays)
    np.savez(beside, **stored)
    beside.replace(path)


def join_parts(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Return the arrays of all pieces, one after the other."""
    parts = []
    for file in files:
        with np.load(file) as part:
            parts.append({name: part[name] for name in part.files})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def write_index(
    folder: Path, layers: list[int], lengths: np.ndarray, n_genes: int, per_shard: int, policy: TokenPolicy
) -> None:
    """Write what a reader needs to know: the shape, and where each cell's tokens start."""
    save_array(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    index = {"layers": layers, "n_genes": n_genes, "cells_per_shard": per_shard, "policy": asdict(policy)}
    (folder / "index.json").write_text(json.dumps(index, indent=1))


class Shards(TokenSource):
    """The stored activations of one layer.

    Parameters
    ----------
    folder : has index.json, offsets.npy (N + 1,) and layer_NN/streams_*.npy
    layer : one of the stored layers
    """

    prefetch = True

    def __init__(self, folder: Path, layer: int) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.n_genes, self.policy = index["n_genes"], TokenPolicy(**index["policy"])
        self._per_shard = index["cells_per_shard"]
        self._offsets = np.load(folder / "offsets.npy")
        self.n_cells = len(self._offsets) - 1
        self._maps = [np.load(path, mmap_mode="r") for path in sorted(layer_folder(folder, layer).glob("streams_*.npy"))]
        self.width = self._maps[0].shape[1]
        self._columns = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("tokens_*.npy"))]

    def cell(self, i: int) -> np.ndarray:
        """Return the activations of cell i, float32 (n_tokens, D), read from disk."""
        shard, start, stop = self._where(i)
        stored = np.array(self._maps[shard][start:stop])
        if stored.dtype == np.uint16:
            return torch.from_numpy(stored).view(torch.bfloat16).float().numpy()
        return stored.astype(np.float32)

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        return [self.cell(int(i)) for i in ids]

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._offsets[ids + 1] - self._offsets[ids]
        return found

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        if not self._columns:  # the policy keeps every valid gene
            return [np.arange(self.n_genes)] * len(ids)
        places = (self._where(int(i)) for i in ids)
        return [np.array(self._columns[shard][start:stop]) for shard, start, stop in places]

    def _where(self, i: int) -> tuple[int, int, int]:
        """Return a cell's shard, and where its tokens start and stop in it."""
        shard = i // self._per_shard
        start, stop = self._offsets[[i, i + 1]] - self._offsets[shard * self._per_shard]
        return shard, int(start), int(stop)
