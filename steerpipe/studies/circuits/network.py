"""Cells whose streams at several layers are known, with a dictionary a layer: what every intervention of a circuit reads.

Letters: N cells, S tokens, T valid gene tokens, D model width, F features of a layer's dictionary, G valid genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...models.base import Output
from ...sae.model import Codes, TopKSAE

HEAD = "head"
Level = int | str
"""Where an effect is read: a layer, whose features are the targets, or HEAD, where genes are."""
Readings = dict[Level, Tensor]
"""Mean codes zbar (B, F) at layers, and predicted log1p CP10K (B, G) at HEAD."""


class Upward(Protocol):
    """A network that can start from its stream at any layer."""

    has_head: bool

    def advance(self, stream: Tensor, layer: int, to: int) -> Tensor:
        """Run blocks layer+1..to on a stream (B, S, D)."""

    def forward_from(self, layer: int, stream: Tensor, read: Tensor | None = None) -> Output:
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
    valid : int64 (T,), positions of the valid genes
    batch_size : cells in a group
    """

    model: Upward
    streams: Mapping[int, np.ndarray]
    saes: Mapping[int, TopKSAE]
    valid: Tensor
    batch_size: int

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

    def stream(self, layer: int, group: np.ndarray) -> Tensor:
        """Return the stream (B, S, D) of a group's cells at a layer."""
        rows = torch.from_numpy(np.array(self.streams[layer][group]))
        return rows.to(self.valid.device)

    def add(self, stream: Tensor, delta: Tensor) -> Tensor:
        """Add delta (B, T, D) at the valid genes of a stream (B, S, D)."""
        return stream.index_add(1, self.valid, delta)

    def pooled(self, layer: int, stream: Tensor) -> Tensor:
        """Return zbar (B, F), the mean code over the valid genes; differentiable in the stream."""
        sae = self.saes[layer]
        return pool(sae.encode(stream[:, self.valid]), sae.n_features)

    def read(self, layer: int, stream: Tensor, levels: Iterable[Level]) -> Readings:
        """Run a layer's stream (B, S, D) on, and read it at the levels; no block runs twice, none above the last level."""
        found: Readings = {}
        wanted = list(levels)
        for at in sorted(level for level in wanted if isinstance(level, int)):
            stream, layer = self.model.advance(stream, layer, at), at
            found[at] = self.pooled(at, stream)
        if HEAD in wanted:
            expression = self.model.forward_from(layer, stream, self.valid).expression
            assert expression is not None
            found[HEAD] = expression
        return found

    def clean(self, layer: int) -> Readings:
        """Return the readings (N, .) of all cells as they are, run on from a layer."""
        with torch.no_grad():
            parts = [self.read(layer, self.stream(layer, group), self.levels(layer)) for group in self.groups()]
        return {level: torch.cat([part[level] for part in parts]) for level in parts[0]}


def pool(codes: Codes, n_features: int) -> Tensor:
    """Return the mean code over tokens, Codes (B, T, K) -> (B, F)."""
    out = codes.values.new_zeros(len(codes.values), n_features)
    return out.scatter_add(1, codes.indices.flatten(1), codes.values.flatten(1)) / codes.values.shape[1]


class LayerCodes:
    """The codes of all cells at one layer, encoded once: every ablation and every null of that layer needs them.

    Memory: 8 bytes a code.
    """

    def __init__(self, network: LayeredCells, layer: int) -> None:
        self.n_features = network.saes[layer].n_features
        self._groups: list[Codes] = []
        with torch.no_grad():
            for group in network.groups():
                codes = network.saes[layer].encode(network.stream(layer, group)[:, network.valid])
                self._groups.append(Codes(codes.values, codes.indices.int()))

    def group(self, group: np.ndarray, batch_size: int) -> Codes:
        """Return the codes (B, T, K) of one of the network's groups."""
        values, indices = self._groups[int(group[0]) // batch_size]
        return Codes(values, indices.long())

    def of(self, feature: int) -> Tensor:
        """Return one feature's code at every token, float32 (N, T)."""
        return torch.cat([codes.of(feature) for codes in self._groups])

    def activity(self) -> np.ndarray:
        """Return the mean |code| over a cell's valid genes, float32 (N, F)."""
        sizes = [pool(Codes(values.abs(), indices.long()), self.n_features) for values, indices in self._groups]
        return np.asarray(torch.cat(sizes).cpu().numpy())

    def firing(self) -> np.ndarray:
        """Return the share of the tokens at which each feature's code is not 0, float64 (F,)."""
        counts, tokens = np.zeros(self.n_features), 0
        for values, indices in self._groups:
            counts += np.bincount(indices[values != 0].cpu().numpy(), minlength=self.n_features)
            tokens += values.shape[0] * values.shape[1]
        return np.asarray(counts / tokens)
