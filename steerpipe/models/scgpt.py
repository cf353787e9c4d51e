"""scGPT's encoder, with its published parameter names: genes and binned values in, a stream of each, predicted values out.

Written from the published formulae (Cui et al. 2024, doi:10.1038/s41592-024-02201-0, and the configuration files of its
checkpoints), without flash attention. Letters: B cells, S tokens, D width, H heads, R genes read. Of a cell the <cls> token
and its expressed genes are run, as in pretraining; a post-norm block's output, after its second LayerNorm, is the stream.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Output, OwnTokens, Tokens, TokenSizes, by_gene, ragged, require_genes

MAX_VALUE = 512.0
"""A binned value is cut here before it is embedded."""


@dataclass(frozen=True)
class ScgptSizes(TokenSizes):
    """The sizes of one scGPT network.

    n_bins : bins of the values, zero's own among them
    cls_value : what stands at the <cls> token: the published `pad_value`
    vocabulary : rows of the gene embedding
    """

    n_bins: int = 51
    cls_value: float = -2.0
    vocabulary: int = 0


def binned(counts: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the bins of a cell's values above 0, float32 (n,), 1 .. n_bins - 1: how they rank within the cell.

    The edges are n_bins - 1 quantiles of the values. A value that equals several edges may go to any of the bins between
    them: the published code draws one at random, and here the middle one is taken (its formula with 1/2 for the draw).

    Parameters
    ----------
    counts : (n,) values above 0, raw or of any growing function of raw counts
    """
    edges = np.quantile(counts, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(counts, edges), np.digitize(counts, edges, right=True)
    return np.asarray(np.ceil((left + right) / 2), np.float32)


class Block(nn.Module):
    """One post-norm transformer block; the state-dict names are those of torch's encoder layer."""

    def __init__(self, sizes: ScgptSizes) -> None:
        super().__init__()
        D, inner = sizes.hidden_size, sizes.intermediate_size
        self.heads = sizes.num_attention_heads
        self.self_attn: Any = nn.Module()
        self.self_attn.in_proj_weight = nn.Parameter(torch.empty(3 * D, D))
        self.self_attn.in_proj_bias = nn.Parameter(torch.empty(3 * D))
        self.self_attn.out_proj = nn.Linear(D, D)
        self.linear1, self.linear2 = nn.Linear(D, inner), nn.Linear(inner, D)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)

    def forward(self, r: Tensor, keys: Tensor | None) -> Tensor:
        """(B, S, D) -> (B, S, D); keys: bool (B, 1, 1, S), the tokens that are attended to, None for all."""
        qkv = F.linear(r, self.self_attn.in_proj_weight, self.self_attn.in_proj_bias)
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(-2)
        r = self.norm1(r + self.self_attn.out_proj(o))
        out: Tensor = self.norm2(r + self.linear2(F.relu(self.linear1(r))))
        return out


class Scgpt(OwnTokens):
    """scGPT's encoder and expression decoder.

    Parameters
    ----------
    genes : the gene symbols of the vocabulary
    rows : int64 (G + 1,), the row of the gene embedding of each of them and, last, of <cls>
    head : whether there is an expression decoder
    """

    n_other = 1

    def __init__(self, arch: ScgptSizes, genes: Iterable[str], rows: np.ndarray, *, head: bool = True) -> None:
        super().__init__()
        self.arch, self.genes, D = arch, tuple(genes), arch.hidden_size
        self.register_buffer("rows", torch.as_tensor(rows, dtype=torch.int64), persistent=False)
        self.rows: Tensor
        self.encoder: Any = nn.ModuleDict({"embedding": nn.Embedding(arch.vocabulary, D), "enc_norm": nn.LayerNorm(D)})
        self.value_encoder: Any = nn.ModuleDict(
            {"linear1": nn.Linear(1, D), "linear2": nn.Linear(D, D), "norm": nn.LayerNorm(D)}
        )
        self.transformer_encoder: Any = nn.ModuleDict(
            {"layers": nn.ModuleList(Block(arch) for _ in range(arch.num_hidden_layers))}
        )
        self.has_head = head
        self.predicts = f"binned expression (1 to {arch.n_bins - 1}; 0 without a token)" if head else None
        if head:
            fc = nn.Sequential(nn.Linear(D, D), nn.LeakyReLU(), nn.Linear(D, D), nn.LeakyReLU(), nn.Linear(D, 1))
            self.decoder: Any = nn.ModuleDict({"fc": fc})

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, 0-based."""
        blocks: nn.ModuleList = self.transformer_encoder["layers"]
        return blocks

    def gene_ids(self, counts: sp.csr_matrix) -> list[np.ndarray]:
        """Return the expressed genes of each cell (B, G), ids ascending, at most arch.max_position_embeddings.

        Of more genes the published code takes a random sample in every epoch. Here the order in which genes are left out is
        drawn once: which genes a cell keeps depends on that cell alone.
        """
        rows, most = sp.csr_matrix(counts), self.arch.max_position_embeddings
        found = []
        for i in range(rows.shape[0]):
            here = rows.indices[rows.indptr[i] : rows.indptr[i + 1]][rows.data[rows.indptr[i] : rows.indptr[i + 1]] > 0]
            if len(here) > most:
                here = here[np.argsort(self.priority[here], kind="stable")[:most]]
            found.append(np.sort(here).astype(np.int64))
        return found

    @functools.cached_property
    def priority(self) -> np.ndarray:
        """int64 (G,), the order in which genes are kept where a cell has too many: the same in every cell."""
        return np.random.default_rng(0).permutation(len(self.genes))

    def tokens(self, counts: sp.spmatrix | np.ndarray) -> Tokens:
        """Return <cls> and the binned values of each cell's expressed genes, of raw counts (B, G).

        Raises
        ------
        SteerError
            A cell has no count on the model's genes.
        """
        rows = sp.csr_matrix(counts)
        ids = self.gene_ids(rows)
        require_genes(ids)
        values = [
            np.r_[self.arch.cls_value, binned(rows[i, some].toarray()[0], self.arch.n_bins)] for i, some in enumerate(ids)
        ]
        return ragged(values, [np.r_[len(self.genes), some] for some in ids], self.rows.device)

    def embed(self, tokens: Tokens) -> Tensor:
        """Return the stream before block 0, (B, S, D)."""
        gene = self.encoder["enc_norm"](self.encoder["embedding"](self.rows[tokens.genes.clamp_min(0)]))
        layers = self.value_encoder
        value = layers["linear2"](F.relu(layers["linear1"](tokens.values[..., None].clamp_max(MAX_VALUE))))
        out: Tensor = gene + layers["norm"](value)
        return out

    def run(self, block: nn.Module, stream: Tensor, there: Tensor | None) -> Tensor:
        """Run one block on a stream (B, S, D)."""
        out: Tensor = block(stream, there)
        return out

    def masked_loss(self, final: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor:
        """Return the mean squared error (B,) of the predicted bins of the hidden genes."""
        wrong = (self.decoder["fc"](final)[..., 0] - tokens.values).square()
        loss: Tensor = (wrong * hidden).sum(1) / hidden.sum(1)
        return loss

    def forward_from(self, layer: int, stream: Tensor, read: Tensor | None = None, genes: Tensor | None = None) -> Output:
        """Run blocks layer+1.. and the decoder on a stream.

        Parameters
        ----------
        stream : (B, S, D), every token of the cells
        read : int64 (R,), ids of the genes to return; default all
        genes : int64 (B, S), the tokens' ids

        Returns
        -------
        Output
            final (B, S, D) of every token; expression (B, R), 0 for a gene without a token
        """
        assert genes is not None
        final = self.advance(stream, layer, len(self.blocks), genes)
        if not self.has_head:
            return Output(final, None)
        predicted = by_gene(self.decoder["fc"](final)[..., 0].float(), genes, len(self.genes) + self.n_other)
        return Output(final, predicted[:, : len(self.genes)] if read is None else predicted[:, read])
