"""What steering a feature at one gene's token alone does to the prediction of another gene.

Of a TF t, a target g and a feature f of direction d_f (its decoder row), with theta = alpha - 1:

    F_g = change of g's prediction when theta z d_f is added at t's token alone
    R_g = change of t's prediction when it is added at g's token alone

z is f's code at t's token. In R it is that same code (push `matched`), so that the two directions differ in nothing but where
the vector is added; or f's code at g's own token (push `own`), which is 0 wherever f is silent there, and R with it: a feature
that was chosen because it fires at t then gives |F| > |R| of itself.

Cells where f is silent at t's token are no cells of f: effects are means over the others. Letters: N cells, S tokens, D width,
G valid genes, A alphas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...sae.model import Codes, TopKSAE

Predict = Callable[[Tensor, Tensor], Tensor]
"""Streams at the steered layer (B, S, D) and positions int64 (R,) -> predicted log1p CP10K there, (B, R)."""

PUSHES = ("matched", "own")
LEAST_CHANGE = 1e-6
"""log1p CP10K: float32 knows no smaller change of a prediction."""
ROUNDINGS = 8
"""Changes of fewer times the rounding that was measured count as none."""


@dataclass(frozen=True)
class SteeredCells:
    """Some cells' streams, and what the rest of the model predicts from them.

    Attributes
    ----------
    predict : the blocks above the steered layer, and the head
    streams : float32 (N, S, D), every token
    valid : int64 (G,), positions of the genes that can be read and steered
    """

    predict: Predict
    streams: Tensor
    valid: Tensor
    batch_size: int = 8

    def clean(self, columns: np.ndarray | slice) -> np.ndarray:
        """Return the unsteered predictions float32 (N, n) of the genes at some columns of `valid`."""
        read = self.valid[columns]
        with torch.no_grad():
            parts = [self.predict(batch, read).float().cpu() for batch in torch.split(self.streams, self.batch_size)]
        return torch.cat(parts).numpy()

    @cached_property
    def every(self) -> np.ndarray:
        """The unsteered predictions float32 (N, G) of all genes."""
        return self.clean(slice(None))

    def changes(self, cells: np.ndarray, columns: np.ndarray, vectors: Tensor, read: np.ndarray | slice) -> np.ndarray:
        """Return what adding a vector at one token of one cell does to predictions, one trial a row.

        Cost: a pass of one cell a trial.

        Parameters
        ----------
        cells, columns : int64 (n,), which cell, and at which gene of `valid`
        vectors : float32 (n, D), what is added there
        read : columns of the genes whose predictions are read; slice(None) for all

        Returns
        -------
        ndarray float32 (n, R)
            log1p CP10K; what is within rounding is 0
        """
        before, positions = self.every if isinstance(read, slice) else self.clean(read), self.valid[read]
        tokens = self.valid.cpu().numpy()[columns]
        out = np.empty((len(cells), before.shape[1]), np.float32)
        with torch.no_grad():
            for start in range(0, len(cells), self.batch_size):
                some = slice(start, start + self.batch_size)
                stream = self.streams[torch.from_numpy(cells[some]).to(self.streams.device)]  # indexing copies
                stream[torch.arange(len(stream)), tokens[some]] += vectors[some]
                out[some] = self.predict(stream, positions).float().cpu().numpy() - before[cells[some]]
        out[np.abs(out) <= self.rounding] = 0
        return out

    @cached_property
    def rounding(self) -> float:
        """What of a change may be rounding, which depends on the batch and on what is read of it: measured, times ROUNDINGS."""
        first = np.array([0])
        with torch.no_grad():
            alone = [self.predict(one[None], self.valid).float().cpu().numpy()[0] for one in self.streams]
        differences = [np.abs(np.stack(alone) - self.every).max(), np.abs(self.clean(first) - self.every[:, first]).max()]
        return max(LEAST_CHANGE, ROUNDINGS * float(max(differences)))


def gene_codes(sae: TopKSAE, cells: SteeredCells) -> Codes:
    """Return the codes of every valid gene's token, values and indices (N, G, K), on the CPU."""
    with torch.no_grad():
        parts = [sae.encode(stream[None, cells.valid]) for stream in cells.streams]
    k = max(part.values.shape[-1] for part in parts)  # of some SAEs tokens differ in how many are active
    pad = [(0, k - part.values.shape[-1]) for part in parts]
    values = [torch.nn.functional.pad(part.values.float().cpu(), by) for part, by in zip(parts, pad, strict=True)]
    indices = [torch.nn.functional.pad(part.indices.cpu(), by) for part, by in zip(parts, pad, strict=True)]
    return Codes(torch.cat(values), torch.cat(indices))


def codes_of(codes: Codes, feature: int, columns: np.ndarray | slice) -> np.ndarray:
    """Return one feature's code at some genes' tokens, float32 (N, n); 0 where it is silent."""
    return np.asarray(Codes(codes.values[:, columns], codes.indices[:, columns]).of(feature).numpy(), np.float32)


def instead_of(sae: TopKSAE, feature: int, other: int) -> Tensor:
    """Return the direction (D,) of another feature at the length of a feature's own: the random-feature control."""
    row: Tensor = sae.W_dec[other]
    found: Tensor = sae.W_dec[feature].norm() * row / row.norm()
    return found.detach()


def forward_effect(cells: SteeredCells, tf: int, codes: np.ndarray, direction: Tensor, alphas: Sequence[float]) -> np.ndarray:
    """Return F of every valid gene, float32 (A, G): one pass a cell and alpha reads them all.

    Parameters
    ----------
    tf : column of the TF
    codes : (N,) the feature's code at the TF's token; cells with 0 are left out
    direction : (D,)
    """
    return _means(cells, np.array([tf]), codes[:, None], np.flatnonzero(codes), direction, alphas, slice(None))[:, 0]


def reverse_effect(
    cells: SteeredCells,
    tf: int,
    targets: np.ndarray,
    codes: np.ndarray,
    direction: Tensor,
    alphas: Sequence[float],
    own: np.ndarray | None = None,
) -> np.ndarray:
    """Return R of some targets, float32 (A, n): one pass a cell, alpha and target, reading the TF alone.

    Parameters
    ----------
    tf, codes, direction : as in forward_effect
    targets : int64 (n,), columns of the targets
    own : (N, n) the feature's code at the targets' tokens, for the push `own`; None for `matched`
    """
    sizes = np.repeat(codes[:, None], len(targets), axis=1) if own is None else own
    return _means(cells, targets, sizes, np.flatnonzero(codes), direction, alphas, np.array([tf]))[:, :, 0]


def _means(
    cells: SteeredCells,
    columns: np.ndarray,
    sizes: np.ndarray,
    firing: np.ndarray,
    direction: Tensor,
    alphas: Sequence[float],
    read: np.ndarray | slice,
) -> np.ndarray:
    """Return the mean change over the firing cells, (A, n, R), of steering at each column; sizes (N, n) are codes."""
    theta = np.asarray(alphas, np.float32) - 1
    size = theta[:, None, None] * sizes[firing].T[None].astype(np.float32)  # (A, n, firing cells)
    n_read = len(cells.valid[read])
    if not len(firing):
        return np.zeros((len(theta), len(columns), n_read), np.float32)
    a, column, cell = np.nonzero(size)  # a size of 0 changes nothing, and costs no pass
    vectors = torch.from_numpy(size[a, column, cell]).to(direction.device)[:, None] * direction
    found = cells.changes(firing[cell], columns[column], vectors, read)
    total = np.zeros((len(theta) * len(columns), n_read))
    np.add.at(total, a * len(columns) + column, found)
    return np.asarray((total / len(firing)).reshape(len(theta), len(columns), n_read), np.float32)
