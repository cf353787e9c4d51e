"""What a model must offer: tokens from counts, its stream at any layer, and the way on from there.

Letters: B cells, S tokens of the longest of them, G genes of the vocabulary, D width, R genes that are read. Genes are known by
their id, the position in `genes`; ids from G upwards are the model's other tokens (depth, <cls>), PAD fills shorter cells up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from ..errors import SteerError

PAD = -1
"""Gene id of a token that is none."""
HIDDEN = -1.0
"""Value of a masked token, where cells have tokens of their own: scGPT's own; Geneformer's values are never below 0."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a network.

    max_position_embeddings : genes that one cell has tokens of, at the most
    fixed : whether every cell has the same tokens, one a gene, in the vocabulary's order
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int

    fixed: ClassVar[bool] = True


@dataclass(frozen=True)
class TokenSizes(Sizes):
    """The sizes of a network whose cells have tokens of their own: of the genes that they express."""

    fixed: ClassVar[bool] = False


class Tokens(NamedTuple):
    """Some cells as a model reads them.

    values : float32 (B, S), what stands at each token (its unit is the model's)
    genes : int64 (S,), the gene ids of all cells; or (B, S), each cell's own, PAD after its last
    """

    values: Tensor
    genes: Tensor

    @property
    def mask(self) -> Tensor | None:
        """bool (B, S), where there is a token; None where every cell has the same ones."""
        return None if self.genes.ndim == 1 else self.genes != PAD

    @property
    def device(self) -> torch.device:
        return self.values.device


class Output(NamedTuple):
    """What comes out above.

    final : (B, R, D), the last stream, after the model's final LayerNorm, at the genes read; (B, S, D), at every token, where
        cells have tokens of their own
    expression : (B, R), what the model predicts of the genes read, in the unit of its `predicts`; None without a readout
    """

    final: Tensor
    expression: Tensor | None


@runtime_checkable
class CellModel(Protocol):
    """A frozen network over the genes of a cell.

    What holds of every one (tests/models/test_contract.py): `forward_from(layer, streams(tokens, [layer])[layer], ...)` is the
    same at every layer; a cell comes out the same whatever other cells are in its batch; nothing is random.

    Attributes
    ----------
    arch : its sizes
    genes : the vocabulary, G names without repeats
    n_other : tokens that are no genes; their ids are G, G + 1, ...
    has_head : whether objectives may be put on what it predicts
    predicts : what `Output.expression` is, with its unit; None where there is none
    """

    arch: Any
    genes: tuple[str, ...]
    n_other: int
    has_head: bool
    predicts: str | None

    def parameters(self) -> Iterator[Any]:
        """Yield the network's parameters."""

    def to(self, device: torch.device | str, /) -> Self:
        """Return it on a device."""

    def tokens(self, counts: sp.spmatrix | np.ndarray, /) -> Tokens:
        """Return the tokens of raw counts (B, G), on the model's device."""

    def gene_ids(self, counts: sp.csr_matrix, /) -> list[np.ndarray] | None:
        """Return the genes of each cell (B, G) that have a token, ids in the order of its tokens; None: all, in every cell."""

    def streams(self, tokens: Tokens, layers: Iterable[int], /, *, read: Tensor | None = None) -> dict[int, Tensor]:
        """Return {layer: (B, S, D)}, the stream after 0-based block `layer`; -1 is the embedding.

        With `read`, ids (R,), a model in which every cell has the same tokens returns theirs alone, (B, R, D).
        """

    def stream(self, tokens: Tokens, layer: int, /, *, read: Tensor | None = None) -> Tensor:
        """Return the stream after block `layer`, as `streams` does."""

    def advance(self, stream: Tensor, layer: int, to: int, genes: Tensor | None = None) -> Tensor:
        """Run blocks layer+1..to on a stream (B, S, D)."""

    def forward_from(self, layer: int, stream: Tensor, read: Tensor | None = None, genes: Tensor | None = None) -> Output:
        """Run the blocks above `layer` and the readout of the genes `read`, ids (R,), on a stream (B, S, D).

        `genes` are the tokens' ids (B, S) where cells have tokens of their own.
        """


class OwnTokens(nn.Module):
    """What models whose cells have tokens of their own do alike: they offer `blocks`, `embed`, `run` and `masked_loss`."""

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, 0-based."""
        raise NotImplementedError

    def embed(self, tokens: Tokens) -> Tensor:
        """Return the stream before block 0, (B, S, D)."""
        raise NotImplementedError

    def run(self, block: nn.Module, stream: Tensor, there: Tensor | None) -> Tensor:
        """Run one block on a stream (B, S, D); there: bool (B, 1, 1, S), tokens that are attended to, None for all."""
        raise NotImplementedError

    def masked_loss(self, final: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor:
        """Return the pretraining's loss (B,), each cell's mean over the tokens that were hidden, of its last stream (B, S, D).

        `tokens` are those before `hide`; every cell has a hidden token.
        """
        raise NotImplementedError

    def streams(self, tokens: Tokens, layers: Iterable[int], *, read: Tensor | None = None) -> dict[int, Tensor]:
        """Return {layer: (B, S, D)} of every token, in one pass that stops at the highest layer asked for."""
        wanted, r, there = set(layers), self.embed(tokens), attended(tokens.genes)
        found = {-1: r} if -1 in wanted else {}
        for i, block in enumerate(self.blocks[: max(wanted) + 1]):
            r = self.run(block, r, there)
            if i in wanted:
                found[i] = r
        return found

    def stream(self, tokens: Tokens, layer: int, *, read: Tensor | None = None) -> Tensor:
        """Return the stream (B, S, D) after block `layer`."""
        return self.streams(tokens, [layer])[layer]

    def advance(self, stream: Tensor, layer: int, to: int, genes: Tensor | None = None) -> Tensor:
        """Run blocks layer+1..to on the stream (B, S, D) after block `layer`, of tokens of some ids (B, S)."""
        there = None if genes is None else attended(genes)
        for block in self.blocks[layer + 1 : to + 1]:
            stream = self.run(block, stream, there)
        return stream


def hide(tokens: Tokens, hidden: Tensor) -> Tokens:
    """Return a cell's own tokens with some of them masked as in pretraining; hidden: bool (B, S)."""
    return tokens._replace(values=torch.where(hidden, HIDDEN, tokens.values))


def attended(genes: Tensor) -> Tensor | None:
    """Return bool (B, 1, 1, S), where ids (B, S) are of tokens; None where there is no padding."""
    there = genes != PAD
    return None if bool(there.all()) else there[:, None, None, :]


def n_ids(model: CellModel) -> int:
    """Return how many ids there are: of genes, and of the other tokens."""
    return len(model.genes) + model.n_other


def pooled_stream(model: CellModel, tokens: Tokens, layer: int, read: Tensor) -> Tensor:
    """Return the pooled embedding (B, D) at a layer: blocks 0..layer alone are run, the last for the genes `read` alone."""
    if model.arch.fixed:
        return model.stream(tokens, layer, read=read).float().mean(1)
    return embedding(model, model.stream(tokens, layer), tokens, read)


def read_out(model: CellModel, layer: int, stream: Tensor, tokens: Tokens, read: Tensor) -> Output:
    """Run the blocks above `layer` on a stream (B, S, D) of some tokens, and read the genes of some ids (R,)."""
    if tokens.mask is None:
        return model.forward_from(layer, stream, read)
    return model.forward_from(layer, stream, read, tokens.genes)


def by_gene(values: Tensor, genes: Tensor, n: int) -> Tensor:
    """Return what stands at each token (B, S) by gene id, (B, n); 0 where a cell has no token of a gene. Differentiable."""
    place = torch.where(genes == PAD, n, genes)
    return values.new_zeros(len(values), n + 1).scatter(1, place, values)[:, :n]


def gene_weights(genes: Tensor, wanted: Tensor, n: int) -> Tensor:
    """Return float32 (B, S), 1 at the tokens whose id is among `wanted` (n ids in all), else 0."""
    table = torch.zeros(n + 1, device=genes.device)  # the last is PAD's
    table[wanted] = 1
    return table[genes]


def mean_stream(stream: Tensor, weights: Tensor) -> Tensor:
    """Return the mean (B, D) of streams (B, S, D) over the tokens of weight 1 (B, S)."""
    return (stream * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp_min(1)


def embedding(model: CellModel, stream: Tensor, tokens: Tokens, read: Tensor) -> Tensor:
    """Return the pooled embedding, float32 (B, D): the mean stream over the tokens of the genes `read`, ids (R,)."""
    if tokens.genes.ndim == 1:
        return stream[:, read].float().mean(1)
    return mean_stream(stream.float(), gene_weights(tokens.genes, read, n_ids(model)))


def require_genes(ids: Sequence[np.ndarray]) -> None:
    """Refuse cells without a gene of the model's.

    Raises
    ------
    SteerError
        A cell has no count on the model's genes.
    """
    empty = sum(not len(some) for some in ids)
    if empty:
        raise SteerError(f"{empty} cells have no count on the model's genes; drop them before running.")


def ragged(values: Iterable[np.ndarray], genes: Iterable[np.ndarray], device: torch.device) -> Tokens:
    """Return the tokens of cells of different lengths: each a values array and an array of gene ids."""
    columns, ids = list(values), list(genes)
    n, longest = len(ids), max(map(len, ids))
    out = Tokens(torch.zeros(n, longest), torch.full((n, longest), PAD))
    for row, (value, gene) in enumerate(zip(columns, ids, strict=True)):
        out.values[row, : len(gene)] = torch.from_numpy(np.asarray(value, np.float32))
        out.genes[row, : len(gene)] = torch.from_numpy(np.asarray(gene, np.int64))
    return Tokens(out.values.to(device), out.genes.to(device))
