"""Knock-outs and over-expressions of genes in silico: what they do to the pooled embedding, and to predicted expression.

A knock-out sets a gene's count to 0, an over-expression to its 99th percentile over the dataset's fit cells, to 1 at the
least and never below what the cell has. Depth and normalisation follow from the changed counts, as they would in a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ...activations.extract import model_inputs
from ...device import mixed_precision
from ...models.aido_cell import AidoCell

KINDS = ("knock-out", "over-expression")
PERCENTILE = 99.0


class Perturbation(NamedTuple):
    """A gene, as a column of the valid ones, and what is done to it: 0 knock-out, 1 over-expression (KINDS)."""

    column: int
    kind: int


class Perturber:
    """Some cells whose counts are changed, and the model that reads them.

    Parameters
    ----------
    counts : raw counts (n, G_model) of the cells
    valid : int64 (G,), positions of the valid genes
    high : (G,), the counts of an over-expression
    """

    def __init__(
        self, model: AidoCell, counts: sp.csr_matrix, valid: np.ndarray, high: np.ndarray, layer: int, batch_size: int
    ) -> None:
        self.model, self.layer, self.batch_size = model, layer, batch_size
        self.counts, self.valid, self.high = counts.toarray().astype(np.float32), valid, high
        self.read = torch.from_numpy(valid).to(next(model.parameters()).device)

    def changed(self, some: Sequence[Perturbation]) -> np.ndarray:
        """Return the counts (n, G_model) after all of some perturbations."""
        out: np.ndarray = self.counts.copy()
        for column, kind in some:
            at = self.valid[column]
            out[:, at] = np.maximum(out[:, at], self.high[column]) if kind else 0
        return out

    def embeddings(self, counts: np.ndarray) -> np.ndarray:
        """Return the mean stream over valid genes at the layer, float32 (n, D): blocks 0..layer alone are run."""
        return self._run(counts, lambda values: self.model.stream(values, self.layer, read=self.read).float().mean(1))

    def expression(self, counts: np.ndarray) -> np.ndarray:
        """Return the predicted log1p CP10K of the valid genes, float32 (n, G): the whole model is run."""

        def predict(values: Tensor) -> Tensor:
            found = self.model.forward_from(self.layer, self.model.stream(values, self.layer), self.read).expression
            assert found is not None
            return found.float()

        return self._run(counts, predict)

    def shifts(self, column: int, base: np.ndarray) -> np.ndarray:
        """Return what either perturbation of a gene adds to each cell's embedding, float32 (2, n, D).

        Cells that it does not change cost nothing; of the others each a pass of blocks 0..layer.

        Parameters
        ----------
        base : (n, D), the embeddings unperturbed
        """
        out = np.zeros((2, *base.shape), np.float32)
        for kind in range(2):
            counts = self.changed([Perturbation(column, kind)])
            rows = np.flatnonzero((counts != self.counts).any(1) & (counts.sum(1) > 0))
            if len(rows):
                out[kind, rows] = self.embeddings(counts[rows]) - base[rows]
        return out

    def _run(self, counts: np.ndarray, read: Callable[[Tensor], Tensor]) -> np.ndarray:
        found = []
        for values in model_inputs(self.model, sp.csr_matrix(counts), self.batch_size):
            with torch.no_grad(), mixed_precision(values.device):
                found.append(read(values).cpu().numpy())
        return np.concatenate(found)


def high_counts(counts: sp.csr_matrix) -> np.ndarray:
    """Return each gene's count of an over-expression, float32 (G,): its 99th percentile over cells (N, G), at least 1."""
    return np.asarray(np.maximum(np.ceil(np.percentile(counts.toarray(), PERCENTILE, axis=0)), 1), np.float32)
