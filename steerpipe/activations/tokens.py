"""Which gene tokens of a cell are kept: the token policy, and what is common to every source of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SMALLEST_SAMPLE = 64


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
    """

    n_cells: int
    n_genes: int
    width: int
    policy: TokenPolicy

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the activations of some cells, float32 (n_tokens, D) each."""
        raise NotImplementedError

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the column among the valid genes of each token of some cells, int (n_tokens,) each, as `cells` has them."""
        raise NotImplementedError

    def n_tokens(self, ids: np.ndarray) -> int:
        """Return how many tokens some cells have (an upper bound where the source does not know)."""
        return len(ids) * self.policy.most(self.n_genes)

    def batches(
        self, cells: np.ndarray, batch_size: int, *, seed: int | tuple[int, ...] | None = None, cells_at_once: int = 64
    ) -> Iterator[Tensor]:
        """Yield float32 (batch_size, D) token batches of one pass over the cells, the rest of the pass dropped.

        With a seed the cells are shuffled, and their tokens within groups of `cells_at_once`; the memory is that of
        one group: cells_at_once * tokens per cell * D * 4 bytes, twice. Without a seed the order is that of `cells` and
        the last batch may be short.
        """
        rng = None if seed is None else np.random.default_rng(seed)
        order = cells if rng is None else rng.permutation(cells)
        left = np.empty((0, self.width), np.float32)
        for start in range(0, len(order), cells_at_once):
            block = np.concatenate([left, *self.cells(order[start : start + cells_at_once])])
            if rng is not None:
                block = block[rng.permutation(len(block))]
            whole = len(block) // batch_size * batch_size
            for at in range(0, whole, batch_size):
                yield torch.from_numpy(block[at : at + batch_size])
            left = block[whole:]
        if rng is None and len(left):
            yield torch.from_numpy(left)
