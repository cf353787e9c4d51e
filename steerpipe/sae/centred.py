"""Gene centring: the mean stream of each gene is taken from its tokens, so that a dictionary is left with what the cell does.

Part of a token's stream is which gene it is, whatever the cell. The means are of the cells that fits may see, and no other.
A dictionary of deviations x - m_g is trained as any other is, on `CentredTokens`; m_g then becomes part of it
(TopKSAE.centre_genes), and it encodes and reconstructs the tokens themselves.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..activations.tokens import TokenSource
from ..errors import SteerError
from .model import TopKSAE

log = logging.getLogger(__name__)
SHOWN = 5


class CentredTokens(TokenSource):
    """The tokens of another source, less their genes' means float32 (G, D): in its order, under its policy."""

    def __init__(self, source: TokenSource, means: Tensor) -> None:
        self.source, self.means = source, means.cpu().numpy()
        self.n_cells, self.n_genes, self.width = source.n_cells, source.n_genes, source.width
        self.policy, self.prefetch = source.policy, source.prefetch

    def cells(self, ids: np.ndarray) -> list[np.ndarray]:
        return [x - self.means[at] for x, at in zip(self.source.cells(ids), self.source.columns(ids), strict=True)]

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        return self.source.lengths(ids)

    def columns(self, ids: np.ndarray) -> list[np.ndarray]:
        return self.source.columns(ids)


def gene_means(source: TokenSource, cells: np.ndarray) -> Tensor:
    """Return the mean stream of each gene's tokens over some cells, float32 (G, D); no other cell is read.

    Where the token policy left a gene without a token in all of these cells, the mean of all tokens stands in: it has to be
    subtracted from the gene's tokens in other cells, and zero is far from any stream.
    """
    total = np.zeros((source.n_genes, source.width))
    n = np.zeros(source.n_genes, np.int64)
    for columns, x in source.cell_by_cell(cells):
        total[columns] += x
        n[columns] += 1
    means = total / np.maximum(n, 1)[:, None]
    unseen = n == 0
    if unseen.any():
        log.info("%d of %d genes have no token in the cells that fits may see: the mean of all stands in", unseen.sum(), len(n))
        means[unseen] = total.sum(0) / max(1, n.sum())
    return torch.from_numpy(means.astype(np.float32))


def deviation_sae(sae: TopKSAE, means: Tensor) -> TopKSAE:
    """Return the SAE of deviations from gene means (G, D) that a gene-centred one by these means was made of."""
    made = copy.copy(sae)
    b_pre = (sae.b_pre.cpu() - means).mean(0)  # one vector of all genes, but for rounding
    made._parameters = {**sae._parameters, "b_pre": nn.Parameter(b_pre, requires_grad=False)}
    made.genes = ()
    return made


def for_genes(sae: TopKSAE, genes: Sequence[str], where: str) -> TopKSAE:
    """Return a gene-centred SAE for the tokens of a dataset's genes, by symbol; any other SAE as it is.

    Raises
    ------
    SteerError
        A gene has no mean in the SAE: what its deviation is cannot be known.
    """
    if not sae.gene_centred:
        return sae
    position = {gene: i for i, gene in enumerate(sae.genes)}
    unknown = [gene for gene in genes if gene not in position]
    if unknown:
        some = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        raise SteerError(
            f"the gene-centred SAE {where} has no mean for {len(unknown)} of the dataset's {len(genes)} genes ({some}): "
            "train one on this dataset with sae.centre=gene, or drop these genes from the dataset."
        )
    return sae.at(np.array([position[gene] for gene in genes]))
