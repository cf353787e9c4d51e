"""The expression objective: distance of the predicted expression to the target's mean, through the upper blocks.

(1/N) sum_c sum_g w_g (y_cg(theta) - mu_g)^2,   w_g = |mean target - mean source| of predicted log1p CP10K
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..device import mixed_precision
from ..sae.model import Codes, TopKSAE
from .intervene import CachedCells, MaskedReadout, apply, edit_codes


def gene_weights(target: np.ndarray, source: np.ndarray, seen: np.ndarray, top_n: int | None = None) -> np.ndarray:
    """Return the objective's weights, float32 (G_valid,), sum 1.

    Parameters
    ----------
    target, source : (N, G_valid) predicted expression of the fit's cells
    seen : bool (G_valid,), genes that the fit may look at; the others weigh 0
    top_n : keep only so many genes of largest weight (the top-n DEG cap)
    """
    weight = np.abs(target.mean(0) - source.mean(0)) * seen
    if top_n is not None and top_n < int((weight > 0).sum()):
        weight[np.argsort(-weight, kind="stable")[top_n:]] = 0
    return np.asarray(weight / weight.sum(), dtype=np.float32)


class _Pass(NamedTuple):
    """One readout's streams (N, S, D), and of the genes read from it: positions, target and weights, (R,) each."""

    streams: np.ndarray
    read: torch.Tensor
    mu: torch.Tensor
    weights: torch.Tensor


def _pass(cached: CachedCells, readout: MaskedReadout, genes: np.ndarray, mu: np.ndarray, weights: np.ndarray) -> _Pass:
    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values[genes], dtype=torch.float32, device=cached.device)

    return _Pass(readout.streams, cached.valid[torch.from_numpy(genes).to(cached.device)], tensor(mu), tensor(weights))


class ExpressionObjective:
    """Value and gradient of the objective on cached cells.

    Cost of one gradient: a forward and a backward pass of the blocks above the steered layer for every cell; memory
    that of one batch.

    Parameters
    ----------
    cached : the source cells' streams; `cells` picks those in the objective
    mu : (G_valid,) mean predicted expression of the target cells
    weights : (G_valid,)
    """

    def __init__(
        self,
        cached: CachedCells,
        cells: np.ndarray,
        sae: TopKSAE,
        mu: np.ndarray,
        weights: np.ndarray,
        *,
        batch_size: int = 8,
    ) -> None:
        self.cached, self.cells, self.sae, self.batch_size = cached, cells, sae, batch_size
        # a readout without weighted genes, and the head's other genes, would be computed for nothing
        self.passes = [
            _pass(cached, readout, readout.columns[weights[readout.columns] > 0], mu, weights)
            for readout in cached.readouts
            if (weights[readout.columns] > 0).any()
        ]
        with torch.no_grad():
            self.codes = [
                [sae.encode(stream[:, cached.valid]) for stream in cached.batches(cells, batch_size, one.streams)]
                for one in self.passes
            ]
        self.n_evaluations = 0

    def active(self) -> np.ndarray:
        """bool (F,): features that fire in at least one of the cells."""
        mask = np.zeros(self.sae.n_features, dtype=bool)
        for codes in (codes for of_pass in self.codes for codes in of_pass):
            mask[codes.indices[codes.values != 0].cpu().numpy()] = True
        return mask

    def value(self, theta: np.ndarray) -> float:
        """Return the objective at theta (F,)."""
        return self._run(theta, gradient=False)[0]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the objective and its gradient, float64 (F,)."""
        value, gradient = self._run(theta, gradient=True)
        assert gradient is not None
        return value, gradient

    def _run(self, theta: np.ndarray, *, gradient: bool) -> tuple[float, np.ndarray | None]:
        self.n_evaluations += 1
        variable = torch.tensor(theta, dtype=torch.float32, device=self.cached.device, requires_grad=gradient)
        total = 0.0
        with torch.set_grad_enabled(gradient):
            for one, of_pass in zip(self.passes, self.codes, strict=True):
                streams = self.cached.batches(self.cells, self.batch_size, one.streams)
                for stream, codes in zip(streams, of_pass, strict=True):
                    loss = self._batch(one, stream, codes, variable)
                    if gradient:
                        loss.backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
        n = len(self.cells)
        slope = variable.grad.cpu().numpy().astype(np.float64) / n if variable.grad is not None else None
        return total / n, slope

    def _batch(self, one: _Pass, stream: torch.Tensor, codes: Codes, theta: torch.Tensor) -> torch.Tensor:
        with mixed_precision(stream.device):
            steered = apply(stream, self.cached.valid, edit_codes(self.sae, codes, theta))
            y = self.cached.model.forward_from(self.cached.layer, steered, one.read).expression
        assert y is not None
        return ((y.float() - one.mu).square() * one.weights).sum()
