"""The score of a gene programme, and the genes that it is measured against.

    score_c = mean over up of (y_cg - matched_cg) - mean over down of (y_cg - matched_cg)

y is log1p CP10K, and matched_cg the mean of y_c over up to CONTROLS genes of g's expression bin that are not in the programme
(Tirosh et al. 2016, as in Seurat's AddModuleScore). It is linear in y, so that it is kept as one weight a gene; the weights
sum to 0, and what moves all genes alike moves no score. A score of half of the genes takes its matched genes from that half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS, CONTROLS = 10, 50


class Program(NamedTuple):
    """Columns of the genes that should rise and of those that should fall, int64; no gene is in both."""

    up: np.ndarray
    down: np.ndarray

    @property
    def genes(self) -> np.ndarray:
        """int64, all of them."""
        return np.concatenate([self.up, self.down])


def expression_bins(expression: np.ndarray) -> np.ndarray:
    """Return each gene's bin (G,), 0 to BINS - 1: as many genes in each, by mean expression (G,)."""
    rank = np.argsort(np.argsort(expression, kind="stable"), kind="stable")
    return np.asarray(rank * BINS // max(len(expression), 1))


def seen_half(program: Program, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Return bool (n_genes,): the genes that a fit may look at, half of up, half of down and half of the others.

    Of an odd number the fit has one more.
    """
    rest = np.setdiff1d(np.arange(n_genes), program.genes)
    seen = np.zeros(n_genes, bool)
    for some in (*program, rest):
        seen[rng.permutation(some)[: (len(some) + 1) // 2]] = True
    return seen


def score_weights(program: Program, expression: np.ndarray, among: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the weights float64 (G,) of the score of those programme genes that are in `among`.

    Parameters
    ----------
    expression : (G,) mean expression, from which bins are cut
    among : bool (G,), the only genes that the score looks at
    """
    bins, weights = expression_bins(expression), np.zeros(len(expression))
    free = among.copy()
    free[program.genes] = False
    for sign, genes in ((1.0, program.up), (-1.0, program.down)):
        genes = genes[among[genes]]
        for gene in genes:
            same = _alike(gene, bins, free)
            drawn = rng.choice(same, min(CONTROLS, len(same)), replace=False)
            weights[gene] += sign / len(genes)
            weights[drawn] -= sign / len(genes) / max(len(drawn), 1)
    return weights


def random_program(program: Program, expression: np.ndarray, rng: np.random.Generator) -> Program:
    """Return a programme of as many genes: each replaced by another gene of its expression bin, none from the programme.

    Where a bin has too few genes, the rest is drawn from all bins.
    """
    bins, free = expression_bins(expression), np.ones(len(expression), bool)
    free[program.genes] = False
    drawn = []
    for gene in program.genes:
        drawn.append(int(rng.choice(_alike(gene, bins, free))))
        free[drawn[-1]] = False
    n = len(program.up)
    return Program(np.array(drawn[:n], np.int64), np.array(drawn[n:], np.int64))


def _alike(gene: int, bins: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The free genes of a gene's expression bin; where it has none, of all bins."""
    same = np.flatnonzero(free & (bins == bins[gene]))
    return same if len(same) else np.flatnonzero(free)
