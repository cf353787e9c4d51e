"""Tokens of several datasets as one source, and of some genes alone: nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .tokens import TokenSource


class SomeGenes(TokenSource):
    """The tokens of another source at some of its genes: `columns` (n,), ascending, of its valid genes."""

    def __init__(self, source: TokenSource, columns: np.ndarray) -> None:
        self.source, self.n_cells, self.width = source, source.n_cells, source.width
        self.n_genes, self.policy, self.prefetch = len(columns), source.policy, source.prefetch
        self._place = np.full(source.n_genes, -1)
        self._place[columns] = np.arange(len(columns))

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        kept = [self._place[at] >= 0 for at in self.source.columns(ids)]
        return [x[some] for x, some in zip(self.source.cells(ids), kept, strict=True)]

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        return np.array([int((self._place[at] >= 0).sum()) for at in self.source.columns(ids)], np.int64)

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        places = (self._place[at] for at in self.source.columns(ids))
        return [place[place >= 0] for place in places]


class Joined(TokenSource):
    """Several sources' cells, one source after the other: cell i of source s is at starts[s] + i.

    Columns are those of each source, and mean different genes from source to source.

    Attributes
    ----------
    starts : int64 (n_sources,)
    """

    def __init__(self, sources: Sequence[TokenSource]) -> None:
        self.sources = list(sources)
        sizes = [one.n_cells for one in sources]
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.n_cells, self.width = int(sum(sizes)), sources[0].width
        largest = max(sources, key=lambda one: one.policy.most(one.n_genes))
        self.n_genes, self.policy = largest.n_genes, largest.policy
        self.prefetch = all(one.prefetch for one in sources)

    def _of(self, ids: np.ndarray) -> list[tuple[TokenSource, np.ndarray]]:
        at = np.searchsorted(self.starts, ids, side="right") - 1
        return [(self.sources[s], np.array([i - self.starts[s]])) for s, i in zip(at, ids, strict=True)]

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        return [source.cells(one)[0] for source, one in self._of(ids)]

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        return np.array([int(source.lengths(one)[0]) for source, one in self._of(ids)], np.int64)

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        return [source.columns(one)[0] for source, one in self._of(ids)]


def equal_shares(sources: Sequence[TokenSource], cells: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return as many of each source's cells as give every source the same number of tokens: that of the smallest."""
    tokens = [source.n_tokens(some) for source, some in zip(sources, cells, strict=True)]
    least = min(tokens)
    return [
        np.sort(rng.permutation(some)[: max(1, round(len(some) * least / n))]) for some, n in zip(cells, tokens, strict=True)
    ]
