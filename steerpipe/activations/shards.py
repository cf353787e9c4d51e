"""Gene-token activations on disk: memory-mapped shards of whole cells, and the shuffled reader over them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FP16_MAX = 60_000.0


def write_shard(folder: Path, number: int, streams: np.ndarray, dtype: str) -> None:
    """Write the streams (cells, G_valid, D) of consecutive cells; values beyond float16's range keep float32."""
    kind = np.float32 if dtype == "float32" or np.abs(streams).max() > FP16_MAX else np.float16
    beside = folder / f"streams_{number:05d}.tmp.npy"
    np.save(beside, streams.astype(kind))
    beside.rename(folder / f"streams_{number:05d}.npy")


class Shards:
    """Random access to the streams of whole cells.

    Parameters
    ----------
    folder : has index.json (`cells_per_shard`, `n_cells`, `n_genes`, `width`) and streams_*.npy
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.n_cells, self.n_genes, self.width = index["n_cells"], index["n_genes"], index["width"]
        self._per_shard = index["cells_per_shard"]
        self._maps = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("streams_*.npy"))]

    def cell(self, i: int) -> np.ndarray:
        """Return the streams of cell i, float (G_valid, D), read from disk."""
        return np.asarray(self._maps[i // self._per_shard][i % self._per_shard], dtype=np.float32)

    def batches(
        self, cells: np.ndarray, batch_size: int, *, seed: int | tuple[int, ...] | None = None, cells_at_once: int = 64
    ) -> Iterator[Tensor]:
        """Yield float32 (batch_size, D) token batches of one pass over the cells, the rest of the pass dropped.

        With a seed the cells are shuffled, and their tokens within groups of `cells_at_once`; the memory is that of
        one group: cells_at_once * G_valid * D * 4 bytes, twice. Without a seed the order is that of `cells` and the
        last batch may be short.
        """
        rng = None if seed is None else np.random.default_rng(seed)
        order = cells if rng is None else rng.permutation(cells)
        left = np.empty((0, self.width), np.float32)
        for start in range(0, len(order), cells_at_once):
            block = np.concatenate([left, *(self.cell(int(i)) for i in order[start : start + cells_at_once])])
            if rng is not None:
                block = block[rng.permutation(len(block))]
            whole = len(block) // batch_size * batch_size
            for at in range(0, whole, batch_size):
                yield torch.from_numpy(block[at : at + batch_size])
            left = block[whole:]
        if rng is None and len(left):
            yield torch.from_numpy(left)
