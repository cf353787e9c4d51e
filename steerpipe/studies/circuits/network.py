"""Cells whose streams at several layers are known, with a dictionary a layer: what every intervention of a circuit reads.

Letters: N cells, S tokens, T valid gene tokens (S where cells have tokens of their own: what is no valid gene has codes of 0),
D model width, F features of a layer's dictionary, G valid genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.base import PAD, Output
from ...sae.model import Codes, TopKSAE
from ...steering.intervene import Batch

HEAD = "head"
Level = int | str
"""Where an effect is read: a layer, whose features are the targets, or HEAD, where genes are."""
Readings = dict[Level, Tensor]
"""Mean codes zbar (B, F) at layers, and what the model predicts of genes (B, G) at HEAD."""


class Upward(Protocol):
    """A network that can start from its stream at any layer."""

    has_head: bool

    def advance(self, stream: Tensor, layer: int, to: int, genes: Tensor | None = None) -> Tensor:
        """Run blocks layer+1..to on a stream (B, S, D)."""

    def forward_from(self, layer: int, stream: Tensor, read: Tensor | None = None, genes: Tensor | None = None) -> Output:
        """Run the blocks above `layer`, the final LayerNorm and the head."""


@dataclass(frozen=True)
class LayeredCells:
    """Cells with their streams at some layers, so that no intervention re-runs the blocks below its own layer.

    Cells run in fixed groups: a cell without a change then gives its clean readings to the bit, since rounding depends on
    what else is in a batch.

    Attributes
    ----------
    model : frozen
    streams : {layer: float32 (N, S, D)}, every token; may be memory-mapped
    saes : {layer: the dictionary of its stream}
    valid : int64 (G,), ids of the valid genes: positions, where every cell has the same tokens
    batch_size : cells in a group
    genes : int32 (N, S), the gene id of each token, base.PAD for none; None where every cell has the same tokens
    """

    model: Upward
    streams: Mapping[int, np.ndarray]
    saes: Mapping[int, TopKSAE]
    valid: Tensor
    batch_size: int
    genes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    @property
    def layers(self) -> list[int]:
        """The layers, ascending."""
        return sorted(self.streams)

    def levels(self, layer: int) -> list[Level]:
        """Where the effects of a layer's features are read: the later layers, and the head where there is one."""
        return [*(at for at in self.layers if at > layer), *([HEAD] if self.model.has_head else [])]

    def groups(self, cells: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Yield the groups of cells that run at once, int64 (B,): those with any of `cells`, default all."""
        for start in range(0, len(self), self.batch_size):
            group = np.arange(start, min(start + self.batch_size, len(self)))
            if cells is None or np.isin(group, cells).any():
                yield group

    def stream(self, layer: int, group: np.ndarray) -> Batch:
        """Return a group's cells at a layer, cut to the longest of them."""
        device = self.valid.device
        if self.genes is None:
            return Batch(torch.from_numpy(np.array(self.streams[layer][group])).to(device))
        ids = np.asarray(self.genes[group])
        longest = int((ids != PAD).sum(1).max())
        stream = torch.from_numpy(np.array(self.streams[layer][group, :longest])).to(device)
        return Batch(stream, torch.from_numpy(ids[:, :longest].astype(np.int64)).to(device))

    def weights(self, genes: Tensor) -> Tensor:
        """Return float32 (B, S), 1 at the tokens of valid genes, of tokens' ids (B, S)."""
        table = torch.zeros(int(max(genes.max(), self.valid.max())) + 2, device=genes.device)  # the last is PAD's
        table[self.valid] = 1
        return table[genes]

    def taken(self, batch: Batch) -> Tensor:
        """Return the streams (B, T, D) of the tokens that edits act on."""
        return batch.stream[:, self.valid] if batch.genes is None else batch.stream

    def add(self, batch: Batch, delta: Tensor) -> Batch:
        """Add delta (B, T, D) at the valid genes' tokens."""
        if batch.genes is None:
            return Batch(batch.stream.index_add(1, self.valid, delta))
        return Batch(batch.stream + delta * self.weights(batch.genes)[..., None], batch.genes)

    def encode(self, layer: int, batch: Batch) -> Codes:
        """Return the codes (B, T, K) of a layer's stream; 0 at what is no valid gene."""
        values, indices = self.saes[layer].encode(self.taken(batch))
        return Codes(values if batch.genes is None else values * self.weights(batch.genes)[..., None], indices)

    def n_tokens(self, batch: Batch) -> Tensor:
        """Return how many valid genes each cell has a token of, float32 (B,)."""
        n = len(batch.stream)
        return torch.full((n,), float(len(self.valid))) if batch.genes is None else self.weights(batch.genes).sum(1)

    def pooled(self, layer: int, batch: Batch) -> Tensor:
        """Return zbar (B, F), the mean code over a cell's valid genes; differentiable in the stream."""
        return pool(self.encode(layer, batch), self.saes[layer].n_features, self.n_tokens(batch))

    def advance(self, batch: Batch, layer: int, to: int) -> Batch:
        """Run blocks layer+1..to."""
        return Batch(self.model.advance(batch.stream, layer, to, batch.genes), batch.genes)

    def read(self, layer: int, batch: Batch, levels: Iterable[Level]) -> Readings:
        """Run a layer's stream on, and read it at the levels; no block runs twice, none above the last level."""
        found: Readings = {}
        wanted = list(levels)
        for at in sorted(level for level in wanted if isinstance(level, int)):
            batch, layer = self.advance(batch, layer, at), at
            found[at] = self.pooled(at, batch)
        if HEAD in wanted:
            expression = self.model.forward_from(layer, batch.stream, self.valid, batch.genes).expression
            assert expression is not None
            found[HEAD] = expression
        return found

    def clean(self, layer: int) -> Readings:
        """Return the readings (N, .) of all cells as they are, run on from a layer."""
        with torch.no_grad():
            parts = [self.read(layer, self.stream(layer, group), self.levels(layer)) for group in self.groups()]
        return {level: torch.cat([part[level] for part in parts]) for level in parts[0]}


def pool(codes: Codes, n_features: int, n_tokens: Tensor) -> Tensor:
    """Return the mean code over the n_tokens (B,) of each cell, Codes (B, T, K) -> (B, F)."""
    out = codes.values.new_zeros(len(codes.values), n_features)
    sums = out.scatter_add(1, codes.indices.flatten(1), codes.values.flatten(1))
    return sums / n_tokens.to(sums)[:, None]


class LayerCodes:
    """The codes of all cells at one layer, encoded once: every ablation and every null of that layer needs them.

    Memory: 8 bytes a code.
    """

    def __init__(self, network: LayeredCells, layer: int) -> None:
        self.n_features = network.saes[layer].n_features
        self._groups: list[Codes] = []
        self._n_tokens: list[Tensor] = []
        with torch.no_grad():
            for group in network.groups():
                batch = network.stream(layer, group)
                codes = network.encode(layer, batch)
                self._groups.append(Codes(codes.values, codes.indices.int()))
                self._n_tokens.append(network.n_tokens(batch))

    def group(self, group: np.ndarray, batch_size: int) -> Codes:
        """Return the codes (B, T, K) of one of the network's groups."""
        values, indices = self._groups[int(group[0]) // batch_size]
        return Codes(values, indices.long())

    def of(self, feature: int) -> Tensor:
        """Return one feature's code at every token, float32 (N, T of the longest cell)."""
        some = [codes.of(feature) for codes in self._groups]
        longest = max(z.shape[1] for z in some)
        return torch.cat([F.pad(z, (0, longest - z.shape[1])) for z in some])

    def activity(self) -> np.ndarray:
        """Return the mean |code| over a cell's valid genes, float32 (N, F)."""
        sizes = [
            pool(Codes(values.abs(), indices.long()), self.n_features, n)
            for (values, indices), n in zip(self._groups, self._n_tokens, strict=True)
        ]
        return np.asarray(torch.cat(sizes).cpu().numpy())

    def firing(self) -> np.ndarray:
        """Return the share of the tokens at which each feature's code is not 0, float64 (F,)."""
        counts = np.zeros(self.n_features)
        for values, indices in self._groups:
            counts += np.bincount(indices[values != 0].cpu().numpy(), minlength=self.n_features)
        return np.asarray(counts / float(torch.cat(self._n_tokens).sum()))
