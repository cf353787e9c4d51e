"""Which gene tokens of a cell are kept: the token policy, and what is common to every source of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SMALLEST_SAMPLE = 64
GROUP_BYTES = 32 * 2**20
"""Tokens that are read and shuffled together, in float32; between 4 and 64 cells."""


@dataclass(frozen=True)
class TokenPolicy:
    """Which gene tokens of a cell are trained on.

    Attributes
    ----------
    kind : valid (every gene of the dataset), expressed (a count above 0), or sample (n valid genes, drawn uniformly for
        each cell: an unbiased share of `valid`)
    n : for sample
    """

    kind: str = "valid"
    n: int = 0
    seed: int = 0

    def __str__(self) -> str:
        return f"sample({self.n})" if self.kind == "sample" else self.kind

    def columns(self, cell: int, counts: np.ndarray) -> np.ndarray:
        """Return the kept columns, int64 ascending, of a cell's counts over the valid genes (G_valid,)."""
        if self.kind == "expressed":
            return np.flatnonzero(counts > 0)
        if self.kind == "sample" and self.n < len(counts):
            rng = np.random.default_rng([self.seed, cell])  # a cell's draw depends on the cell alone: resumable
            return np.sort(rng.choice(len(counts), self.n, replace=False))
        return np.arange(len(counts))

    def most(self, n_valid: int) -> int:
        """Return how many tokens a cell has at the most."""
        return min(self.n, n_valid) if self.kind == "sample" else n_valid


def affordable_policy(n_cells: int, n_valid: int, bytes_per_token: int, max_bytes: float, *, seed: int = 0) -> TokenPolicy:
    """Return `valid` where the disk budget holds it, else the largest power of two of sampled tokens that fits."""
    if n_cells * n_valid * bytes_per_token <= max_bytes:
        return TokenPolicy("valid", seed=seed)
    fits = max_bytes / (n_cells * bytes_per_token)
    n = SMALLEST_SAMPLE
    while 2 * n <= fits:
        n *= 2
    return TokenPolicy("sample", n, seed)


class TokenSource:
    """Random access to the gene-token activations of whole cells, and shuffled passes over them.

    Attributes
    ----------
    n_cells, n_genes, width : cells, valid genes, D
    policy : which tokens of a cell there are
    prefetch : whether a thread may read ahead
    """

    n_cells: int
    n_genes: int
    width: int
    policy: TokenPolicy
    prefetch = False

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the activations of some cells, float32 (n_tokens, D) each."""
        raise NotImplementedError

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        """Return how many tokens each of some cells has, int64."""
        return np.full(len(ids), self.policy.most(self.n_genes))

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the column among the valid genes of each token of some cells, int (n_tokens,) each, as `cells` has them."""
        raise NotImplementedError

    def cell_by_cell(self, ids: np.ndarray, *, at_once: int = 64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (columns (n_tokens,), activations (n_tokens, D)) of each of some cells, reading so many cells at a time."""
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            yield from zip(self.columns(some), self.cells(some), strict=True)

    def n_tokens(self, ids: np.ndarray) -> int:
        """Return how many tokens some cells have."""
        return int(self.lengths(ids).sum())

    def batches(
        self, cells: np.ndarray, batch_size: int, *, seed: int | tuple[int, ...] | None = None, skip: int = 0
    ) -> Iterator[Tensor]:
        """Yield float32 (batch_size, D) token batches of one pass over the cells, the rest of the pass dropped.

        With a seed the cells are shuffled, and their tokens within groups of whole cells (GROUP_BYTES of them: memory is
        three times that, since the next group is read while this one is used). Without a seed the order is that of `cells` and
        the last batch may be short.

        Parameters
        ----------
        skip : batches to leave out at the start; groups that lie in them are not read
        """
        seeds = None if seed is None else [seed] if isinstance(seed, int) else list(seed)
        order = cells if seeds is None else np.random.default_rng(seeds).permutation(cells)
        groups = self._groups(order)
        ends = np.cumsum([self.n_tokens(group) for group in groups])
        first = int(np.searchsorted(ends, skip * batch_size, side="right"))

        def read(number: int) -> np.ndarray:
            block = np.concatenate(self.cells(groups[number]))
            if seeds is None:
                return block
            return block[np.random.default_rng([*seeds, number]).permutation(len(block))]

        start = int(ends[first - 1]) if first else 0
        drop, left = skip * batch_size - start, np.empty((0, self.width), np.float32)
        for block in _ahead(read, range(first, len(groups)), self.prefetch):
            block, drop = block[drop:], 0
            if len(left):
                block, rest = block[batch_size - len(left) :], block[: batch_size - len(left)]
                left = np.concatenate([left, rest])
                if len(left) < batch_size:
                    continue
                yield torch.from_numpy(left)
            whole = len(block) // batch_size * batch_size
            for at in range(0, whole, batch_size):
                yield torch.from_numpy(block[at : at + batch_size])
            left = block[whole:]
        if seeds is None and len(left):
            yield torch.from_numpy(left)

    def _groups(self, order: np.ndarray) -> list[np.ndarray]:
        """Cells that are read and shuffled together, in order."""
        per_cell = 4 * self.width * self.policy.most(self.n_genes)
        size = int(np.clip(GROUP_BYTES // max(1, per_cell), 4, 64))
        return [order[start : start + size] for start in range(0, len(order), size)]


def _ahead(read: Callable[[int], np.ndarray], numbers: Iterable[int], prefetch: bool) -> Iterator[np.ndarray]:
    """Yield read(number) in order; with prefetch the next one is read while the caller works."""
    if not prefetch:
        yield from map(read, numbers)
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = None
        for number in numbers:
            done, waiting = waiting, reader.submit(read, number)
            if done is not None:
                yield done.result()
        if waiting is not None:
            yield waiting.result()
