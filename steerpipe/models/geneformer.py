"""Geneformer: a BERT over a cell's genes in the order of their rank values, by `transformers` (steerpipe[geneformer]).

Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9. Letters: B cells, S tokens, D width, V rows of the token dictionary, R
genes read. A token's stream after a block is its residual stream after that block's second LayerNorm. Attention knows no order
beyond the position embeddings, so that what a stream says of ranks it took in below; the readout needs the order of the tokens,
which is that of their gene ids in `genes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import PAD, Output, OwnTokens, Tokens, TokenSizes, ragged, require_genes

AT_ONCE = 256
"""Positions whose logits over the whole dictionary are held at once."""


@dataclass(frozen=True)
class GeneformerSizes(TokenSizes):
    """The sizes of one Geneformer.

    special : whether cells begin with <cls> and end with <eos> (V2)
    """

    special: bool = False


def rank_order(counts: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """Return the order (n,) of a cell's genes: falling count / median, ties by position.

    The published value is count / total * 10,000 / median; a cell's total does not change its ranks.

    Parameters
    ----------
    counts : (n,) raw counts above 0
    medians : (n,) the genes' non-zero medians over the pretraining corpus
    """
    return np.asarray(np.argsort(-(counts.astype(np.float64) / medians), kind="stable"))


class Geneformer(OwnTokens):
    """A BertForMaskedLM that reads counts.

    Parameters
    ----------
    bert : transformers' BertForMaskedLM
    rows : int64 (G + n_other,), the dictionary's row of each gene and, last, of <cls> and <eos> where there are any
    medians : float64 (G,)
    mask_row : the dictionary's row of <mask>
    """

    def __init__(
        self,
        arch: GeneformerSizes,
        genes: Iterable[str],
        bert: nn.Module,
        rows: np.ndarray,
        medians: np.ndarray,
        mask_row: int = 1,
    ) -> None:
        super().__init__()
        self.arch, self.genes, self.medians, self.mask_row = arch, tuple(genes), medians, mask_row
        self.n_other = 2 if arch.special else 0
        self.has_head = False
        self.predicts = "rank score (1 is the first place, 0 none)"
        self.lm: Any = bert
        self.register_buffer("rows", torch.as_tensor(rows, dtype=torch.int64), persistent=False)
        self.rows: Tensor

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, 0-based."""
        blocks: nn.ModuleList = self.lm.bert.encoder.layer
        return blocks

    def gene_ids(self, counts: sp.csr_matrix) -> list[np.ndarray]:
        """Return the genes of each cell (B, G), highest rank value first, at most arch.max_position_embeddings."""
        rows, found = sp.csr_matrix(counts), []
        for i in range(rows.shape[0]):
            part = slice(rows.indptr[i], rows.indptr[i + 1])
            here = np.sort(rows.indices[part][rows.data[part] > 0])
            order = rank_order(rows[i, here].toarray()[0], self.medians[here])
            found.append(here[order][: self.arch.max_position_embeddings].astype(np.int64))
        return found

    def tokens(self, counts: sp.spmatrix | np.ndarray) -> Tokens:
        """Return each cell's genes in the order of their rank values, of raw counts (B, G); `values` is the rank score.

        Raises
        ------
        SteerError
            A cell has no count on the model's genes.
        """
        ids = self.gene_ids(sp.csr_matrix(counts))
        require_genes(ids)
        values = [1 - np.arange(len(some)) / len(some) for some in ids]
        if self.arch.special:
            G = len(self.genes)
            ids, values = [np.r_[G, some, G + 1] for some in ids], [np.r_[0, some, 0] for some in values]
        return ragged(values, ids, self.rows.device)

    def embed(self, tokens: Tokens) -> Tensor:
        """Return the stream before block 0, (B, S, D)."""
        rows = torch.where(tokens.genes == PAD, self.lm.config.pad_token_id, self.rows[tokens.genes.clamp_min(0)])
        rows = torch.where(tokens.values < 0, self.mask_row, rows)
        r: Tensor = self.lm.bert.embeddings(input_ids=rows)
        return r

    def run(self, block: nn.Module, stream: Tensor, there: Tensor | None) -> Tensor:
        """Run one block on a stream (B, S, D)."""
        out = block(stream, attention_mask=None if there is None else there.expand(-1, 1, there.shape[-1], -1))
        found: Tensor = out[0] if isinstance(out, tuple) else out  # transformers 4 returns a tuple
        return found

    def masked_loss(self, final: Tensor, tokens: Tokens, hidden: Tensor) -> Tensor:
        """Return the mean cross-entropy (B,) of the hidden genes, over the whole dictionary."""
        rows = self.rows[tokens.genes.clamp_min(0)]
        losses = [
            F.cross_entropy(self.lm.cls(stream[some]).float(), row[some])
            for stream, row, some in zip(final, rows, hidden, strict=True)
        ]
        return torch.stack(losses)

    def forward_from(self, layer: int, stream: Tensor, read: Tensor | None = None, genes: Tensor | None = None) -> Output:
        """Run blocks layer+1.. and the masked-gene head on a stream.

        The rank score of gene g is sum_p P(g at p) (1 - p / n) over the n places of a cell, P by the head, without masks: about
        1 - p / n for a gene that the head sees at place p, 0 for one that it sees nowhere. No gradient comes from it.

        Parameters
        ----------
        stream : (B, S, D), every token of the cells
        read : int64 (R,), ids of the genes to return; default all
        genes : int64 (B, S), the tokens' ids

        Returns
        -------
        Output
            final (B, S, D) of every token; expression (B, R), rank scores; None while gradients are taken
        """
        assert genes is not None
        final = self.advance(stream, layer, len(self.blocks), genes)
        if torch.is_grad_enabled():
            return Output(final, None)
        rows = self.rows[: len(self.genes)] if read is None else self.rows[read]
        if not len(rows):
            return Output(final, None)
        return Output(final, self._rank_scores(final, genes, rows))

    def _rank_scores(self, final: Tensor, genes: Tensor, rows: Tensor) -> Tensor:
        """Return sum_p P(row at p) (1 - p / n), float32 (B, R)."""
        of_gene = (genes >= 0) & (genes < len(self.genes))
        n = of_gene.sum(1, keepdim=True)
        weights = torch.where(of_gene, 1 - (of_gene.cumsum(1) - 1) / n, 0.0)
        out = torch.zeros(len(final), len(rows), device=final.device)
        for start in range(0, final.shape[1], AT_ONCE):
            part = slice(start, start + AT_ONCE)
            logits = self.lm.cls(final[:, part]).float()
            shares = (logits[..., rows] - logits.logsumexp(-1, keepdim=True)).exp()
            out += (shares * weights[:, part, None]).sum(1)
        return out
