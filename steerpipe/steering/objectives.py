"""The expression objective: distance of the predicted expression to the target's mean, through the upper blocks.

(1/N) sum_c sum_g w_g (y_cg(theta) - mu_g)^2,   w_g = |mean target - mean source| of predicted log1p CP10K
"""

from __future__ import annotations

import numpy as np
import torch

from ..device import mixed_precision
from ..sae.model import Codes, TopKSAE
from .intervene import CachedCells, apply, edit_codes


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
        self.mu = torch.as_tensor(mu, dtype=torch.float32, device=cached.device)
        self.weights = torch.as_tensor(weights, dtype=torch.float32, device=cached.device)
        # the head's other genes would be computed for nothing
        kept = self.weights.nonzero()[:, 0]
        self.read, self.mu, self.weights = cached.valid[kept], self.mu[kept], self.weights[kept]
        with torch.no_grad():
            self.codes = [sae.encode(stream[:, cached.valid]) for stream in cached.batches(cells, batch_size)]
        self.n_evaluations = 0

    def active(self) -> np.ndarray:
        """bool (F,): features that fire in at least one of the cells."""
        mask = np.zeros(self.sae.n_features, dtype=bool)
        for codes in self.codes:
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
        streams = self.cached.batches(self.cells, self.batch_size)
        with torch.set_grad_enabled(gradient):
            for stream, codes in zip(streams, self.codes, strict=True):
                loss = self._batch(stream, codes, variable)
                if gradient:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        n = len(self.cells)
        slope = variable.grad.cpu().numpy().astype(np.float64) / n if variable.grad is not None else None
        return total / n, slope

    def _batch(self, stream: torch.Tensor, codes: Codes, theta: torch.Tensor) -> torch.Tensor:
        with mixed_precision(stream.device):
            steered = apply(stream, self.cached.valid, edit_codes(self.sae, codes, theta))
            y = self.cached.model.forward_from(self.cached.layer, steered, self.read).expression
        assert y is not None
        return ((y.float() - self.mu).square() * self.weights).sum()
