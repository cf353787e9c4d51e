"""Training batches drawn from counts: nested binomial thinning, smaller panels, masks and contexts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config.pretraining import Recipe
from ..models.preprocess import MASK

MIN_COUNTS = 40
"""Thinning leaves this many counts in a cell, in expectation."""

SHIFTED = 0.7
"""Share of cells whose genes are shifted."""

Teacher = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Predicts a cell's target from its visible genes; see teacher.py."""


class Batch(NamedTuple):
    """One training step's input: all (B, S) or (B, n) with n the genes of the context."""

    values: Tensor
    positions: Tensor
    target: Tensor
    masked: Tensor
    present: Tensor


class Sample(NamedTuple):
    """Cells at two depths, (B, G) each: counts to predict, counts to read (a thinning of those), genes of the panel."""

    deep: np.ndarray
    thin: np.ndarray
    present: np.ndarray


class Mixture(NamedTuple):
    """Cells of several datasets, each with an equal share of what is drawn.

    of: int (N,), the dataset of each cell; measured: bool (n_datasets, G), the genes that each has.
    """

    of: np.ndarray
    measured: np.ndarray


class ThinnedCells:
    """Draws training batches from raw counts.

    Parameters
    ----------
    counts : uint16 (N, G)
    panels : smaller gene panels, bool (G,) each, that some cells are seen through
    teacher : where given, its prediction stands in for `recipe.teacher_weight` of the target at masked genes
    gene_shift : how far a cell's genes differ in how well they are detected; see `shift_genes`
    mixture : where the cells are of several datasets; a gene that a cell's dataset lacks is no gene of its panel
    """

    def __init__(
        self,
        counts: np.ndarray,
        recipe: Recipe,
        panels: Sequence[np.ndarray] = (),
        teacher: Teacher | None = None,
        gene_shift: float = 0.0,
        mixture: Mixture | None = None,
    ) -> None:
        self.counts, self.recipe, self.panels, self.teacher = counts, recipe, list(panels), teacher
        self.gene_shift, self.mixture = gene_shift, mixture

    def choose(self, rng: np.random.Generator, cells: np.ndarray, size: int) -> np.ndarray:
        """Draw some of the given cells without replacement, of every dataset as many in expectation."""
        if self.mixture is None:
            return np.asarray(rng.choice(cells, size, replace=False))
        of = self.mixture.of[cells]
        share = 1 / np.bincount(of)[of]
        return np.asarray(rng.choice(cells, size, replace=False, p=share / share.sum()))

    def sample(self, rng: np.random.Generator, cells: np.ndarray) -> Sample:
        """Thin the given cells to a target depth, and from there to the depth of the input."""
        N, G = len(cells), self.counts.shape[1]
        present = np.stack([self._present(rng, G) for _ in range(N)])
        if self.mixture is not None:
            present &= self.mixture.measured[self.mixture.of[cells]]
        whole = self.counts[cells].astype(np.int64) * present
        if self.gene_shift > 0:
            whole = shift_genes(rng, whole, self.gene_shift)
        deep = thin(rng, whole, self._rates(rng, whole, self.recipe.full_depth))
        return Sample(deep, thin(rng, deep, self._rates(rng, deep, self.recipe.same_depth)), present)

    def draw(self, rng: np.random.Generator, cells: np.ndarray, context: int | None = None, *, full: bool = False) -> Batch:
        """Thin, mask and assemble the contexts of the given cells."""
        N, G = len(cells), self.counts.shape[1]
        n = G if full else min(context or self.recipe.context, G)
        deep, shallow, present = self.sample(rng, cells)
        deep_total, total = (np.maximum(x.sum(1), 1) for x in (deep, shallow))

        order = rng.random((N, G))
        masked_share = 0.0 if rng.random() < 0.2 else rng.uniform(0.05, self.recipe.max_masked)
        masks = np.zeros((N, G), bool)
        first = np.argsort(np.where(present, order, 2.0), axis=1)[:, : int(masked_share * n)]
        np.put_along_axis(masks, first, True, axis=1)
        masks &= present
        # masked genes first, then every expressed gene, then zeros at random up to the context's length
        keys = order - 4.0 * masks - 2.0 * (shallow > 0)
        chosen = np.sort(np.argpartition(keys, n - 1, axis=1)[:, :n], axis=1)

        def take(x: np.ndarray) -> np.ndarray:
            return np.take_along_axis(x, chosen, axis=1)

        goal = log_cp10k(deep)
        target = take(goal)
        if self.teacher is not None:
            share = self.recipe.teacher_weight * take(masks)
            depth = np.log10(np.stack([deep_total, deep_total], axis=1)).astype(np.float32)
            with torch.no_grad():
                taught = self.teacher(*map(torch.from_numpy, (goal, (present & ~masks).astype(np.float32), depth)))
            target = share * take(taught.numpy()) + (1 - share) * target
        masks = take(masks)
        values = take(log_cp10k(shallow))
        values[masks] = MASK
        depth = np.log10(np.stack([deep_total, total], axis=1))
        last = np.broadcast_to(np.array([G, G + 1]), (N, 2))
        return Batch(
            torch.from_numpy(np.concatenate([values, depth], axis=1).astype(np.float32)),
            torch.from_numpy(np.concatenate([chosen, last], axis=1)),
            torch.from_numpy(target.astype(np.float32)),
            torch.from_numpy(masks),
            torch.from_numpy(take(present)),
        )

    def _rates(self, rng: np.random.Generator, counts: np.ndarray, whole: float) -> np.ndarray:
        """Return (N,) thinning rates: 1 for a share `whole` of the cells, else log-uniform from min_rate."""
        rate: np.ndarray = 10 ** rng.uniform(math.log10(self.recipe.min_rate), 0, len(counts))
        rate[rng.random(len(counts)) < whole] = 1.0
        enough: np.ndarray = np.minimum(1, MIN_COUNTS / np.maximum(counts.sum(1), 1))
        rate = np.maximum(rate, enough)
        return rate

    def _present(self, rng: np.random.Generator, G: int) -> np.ndarray:
        if rng.random() >= self.recipe.small_panel:
            return np.ones(G, bool)
        if self.panels and rng.random() < 0.6:
            return self.panels[int(rng.integers(len(self.panels)))]
        return rng.random(G) < rng.uniform(0.3, 0.9)


def thin(rng: np.random.Generator, counts: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Keep each count of (N, G) with its cell's rate (N,), or with a rate of its own (N, G)."""
    out: np.ndarray = np.zeros_like(counts)
    some = counts > 0
    out[some] = rng.binomial(counts[some], np.broadcast_to(rate if rate.ndim == 2 else rate[:, None], counts.shape)[some])
    return out


def shift_genes(rng: np.random.Generator, counts: np.ndarray, most: float) -> np.ndarray:
    """Return cells (N, G) as another chemistry might count them: each gene is detected by a share of its own.

    A gene keeps each count with probability exp(-s u), u uniform by cell and gene, s uniform by cell between 0 and `most`
    for SHIFTED of the cells and 0 for the others. The log rate has sd s / sqrt 12.
    """
    N, G = counts.shape
    s = rng.uniform(0, most, (N, 1)) * (rng.random((N, 1)) < SHIFTED)
    return thin(rng, counts, np.exp(-s * rng.random((N, G))))


def log_cp10k(counts: np.ndarray) -> np.ndarray:
    """Return float32 log1p(count / total * 10,000) of (N, G) counts, computed in float64; an empty cell is all zero."""
    counts = counts.astype(np.float64)
    values: np.ndarray = np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4).astype(np.float32)
    return values
