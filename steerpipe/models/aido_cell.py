"""AIDO.Cell: a pre-LayerNorm encoder over genes, with its published parameter names.

Written from the model's description, not from its code. Letters: B cells, S tokens (G genes, then target depth and
input depth), D width, H heads, R read positions. The reference builds an attention mask that changes nothing; here
there is none. The residual stream at layer i is the output of block i, 0-based; -1 is the embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .preprocess import DepthRule

BINS = 100
LN_EPS = 1e-5


@dataclass(frozen=True)
class ArchConfig:
    """The sizes of one AIDO.Cell network."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    add_linear_bias: bool = False
    bin_alpha: float = 1.0
    depth: DepthRule = field(default_factory=DepthRule)


class Output(NamedTuple):
    """final: (B, R, D) stream after the final LayerNorm; expression: (B, R) predicted log1p CP10K, None without a head."""

    final: Tensor
    expression: Tensor | None


class GeneEmbedding(nn.Module):
    """Auto-discretisation: a value becomes a softmax mixture of 100 learned bins."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        self.bin_alpha = arch.bin_alpha
        self.linear1 = nn.Linear(1, BINS)
        self.linear2 = nn.Linear(BINS, BINS)
        self.lookup_table = nn.Embedding(BINS, arch.hidden_size)
        self.mask_embedding = nn.Embedding(1, arch.hidden_size)
        self.pad_embedding = nn.Embedding(1, arch.hidden_size)

    def forward(self, values: Tensor) -> Tensor:
        """(B, S) float32 -> (B, S, D); -1 is the mask, -2 the pad, compared exactly."""
        # counts are few: a batch of cells has some hundred different values among its many thousand
        unique, where = torch.unique(values, return_inverse=True)
        h = F.leaky_relu(self.linear1(unique[:, None]), negative_slope=0.1)
        weights = torch.softmax(self.bin_alpha * h + self.linear2(h), dim=-1)
        e = (weights @ self.lookup_table.weight)[where]
        e = torch.where((values == -1)[..., None], self.mask_embedding.weight[0], e)
        return torch.where((values == -2)[..., None], self.pad_embedding.weight[0], e)


class Block(nn.Module):
    """One pre-LN transformer block: full bidirectional attention, then a SwiGLU MLP."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        D, bias = arch.hidden_size, arch.add_linear_bias
        self.heads = arch.num_attention_heads
        self.attention: Any = nn.ModuleDict(
            {
                "ln": nn.LayerNorm(D, eps=LN_EPS),
                "self": nn.ModuleDict({name: nn.Linear(D, D, bias=bias) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(D, D, bias=bias)}),
            }
        )
        self.ln = nn.LayerNorm(D, eps=LN_EPS)
        self.mlp: Any = nn.ModuleDict(
            {
                "up_proj": nn.Linear(D, arch.intermediate_size, bias=bias),
                "down_proj": nn.Linear(arch.intermediate_size, D, bias=bias),
                "gate_proj": nn.Linear(D, arch.intermediate_size, bias=bias),
            }
        )

    def forward(self, r: Tensor, read: Tensor | None = None) -> Tensor:
        """(B, S, D) -> (B, S, D), or (B, R, D) where only the positions `read` (R,) are wanted."""
        project = self.attention["self"]
        a = self.attention["ln"](r)
        kept, a_kept = (r, a) if read is None else (r[:, read], a[:, read])
        q, k, v = (
            project[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name, x in (("query", a_kept), ("key", a), ("value", a))
        )
        o = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        kept = kept + self.attention["output"]["dense"](o)
        m = self.ln(kept)
        out: Tensor = kept + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](m)) * self.mlp["up_proj"](m))
        return out


class AidoCell(nn.Module):
    """AIDO.Cell with its state-dict names, per-layer streams, and a forward pass that can start at any layer.

    Parameters
    ----------
    arch : the network's sizes
    genes : the gene symbols of positions 0..G-1
    head : whether there is an output head (an encoder-only checkpoint has none)
    """

    def __init__(self, arch: ArchConfig, genes: Iterable[str], *, head: bool = True) -> None:
        super().__init__()
        self.arch, self.genes = arch, tuple(genes)
        D = arch.hidden_size
        self.bert: Any = nn.ModuleDict(
            {
                "gene_embedding": GeneEmbedding(arch),
                "position_embedding": nn.Embedding(arch.max_position_embeddings + 2, D),
                "encoder": nn.ModuleDict(
                    {
                        "layer": nn.ModuleList(Block(arch) for _ in range(arch.num_hidden_layers)),
                        "ln": nn.LayerNorm(D, eps=LN_EPS),
                    }
                ),
            }
        )
        self.has_head = head
        if head:
            transform = nn.ModuleDict({"dense": nn.Linear(D, D), "LayerNorm": nn.LayerNorm(D, eps=LN_EPS)})
            self.cls: Any = nn.ModuleDict({"predictions": nn.ModuleDict({"transform": transform, "decoder": nn.Linear(D, 1)})})

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, 0-based."""
        blocks: nn.ModuleList = self.bert["encoder"]["layer"]
        return blocks

    @property
    def positions(self) -> Tensor:
        """The position embeddings (G + 2, D): a gene's identity."""
        weight: Tensor = self.bert["position_embedding"].weight
        return weight

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    def embed(self, values: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Return the stream before block 0.

        Parameters
        ----------
        values : float32 (B, S), log1p CP10K and depth tokens; -1 masked, -2 pad
        position_ids : int64 (S,) or (B, S), the tokens' true positions; default 0..S-1
        """
        positions = self.positions
        with torch.autocast(values.device.type, enabled=False):  # a bf16 value would lose the counts' resolution
            e: Tensor = self.bert["gene_embedding"](values.float())
            return e + (positions[: values.shape[1]] if position_ids is None else positions[position_ids])

    def streams(
        self, values: Tensor, layers: Iterable[int], position_ids: Tensor | None = None, *, read: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Return {layer: (B, S, D)} in one pass that stops at the highest layer asked for.

        With `read`, int64 (R,), the streams of those positions alone, (B, R, D): the highest block's queries and MLP run on
        them alone.
        """
        wanted = set(layers)
        top = max(wanted)

        def kept(r: Tensor) -> Tensor:
            return r if read is None else r[:, read]

        r = self.embed(values, position_ids)
        found = {-1: kept(r)} if -1 in wanted else {}
        for i, block in enumerate(self.blocks[: top + 1]):
            r = block(r, read if i == top else None)
            if i in wanted:
                found[i] = r if i == top else kept(r)
        return found

    def stream(self, values: Tensor, layer: int, position_ids: Tensor | None = None, *, read: Tensor | None = None) -> Tensor:
        """Return the residual stream (B, S, D) after block `layer`, or (B, R, D) of the positions `read` alone."""
        return self.streams(values, [layer], position_ids, read=read)[layer]

    def advance(self, stream: Tensor, layer: int, to: int) -> Tensor:
        """Run blocks layer+1..to on the stream (B, S, D) after block `layer`; the stream itself where there is none."""
        for block in self.blocks[layer + 1 : to + 1]:
            stream = block(stream)
        return stream

    def forward_from(self, layer: int, stream: Tensor, read: Tensor | None = None) -> Output:
        """Run blocks layer+1.. and the head on a stream, so that steering never re-runs the lower blocks.

        Parameters
        ----------
        layer : the layer whose output `stream` is
        stream : (B, S, D), every token of the cell
        read : int64 (R,), the positions to return; the last block's queries, MLP and the head run on these alone
        """
        above = self.blocks[layer + 1 :]
        for i, block in enumerate(above):
            stream = block(stream, read if i == len(above) - 1 else None)
        if read is not None and not len(above):
            stream = stream[:, read]
        final = self.bert["encoder"]["ln"](stream)
        return Output(final, self.predict(final) if self.has_head else None)

    def predict(self, final: Tensor) -> Tensor:
        """Predicted log1p(CP10K), (..., D) -> (...): a linear output, unbounded."""
        head = self.cls["predictions"]
        h = head["transform"]["LayerNorm"](F.gelu(head["transform"]["dense"](final)))
        y: Tensor = head["decoder"](h)[..., 0]
        return y

    def forward(self, values: Tensor, position_ids: Tensor | None = None) -> Output:
        """Run the whole model on (B, S) values."""
        return self.forward_from(-1, self.embed(values, position_ids))
