"""Objectives that run through the blocks above the steered layer, with their gradients.

    latent_final   (1/N) sum_c || e_c(theta) - mu ||            e: mean final stream over valid genes; not squared
    expression     (1/N) sum_c sum_g w_g (y_cg(theta) - mu_g)^2
    mixed          weight * latent / latent(0) + (1 - weight) * expression / expression(0)

y is the predicted log1p CP10K and w_g = |mean target - mean source| of it. `latent` itself is a lasso: see lasso.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..device import mixed_precision
from ..models.aido_cell import Output
from ..sae.model import Codes, TopKSAE
from .intervene import CachedCells, MaskedReadout, apply, edit_codes
from .lasso import LatentProblem


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


class Objective(Protocol):
    """A smooth function of theta (F,)."""

    def value(self, theta: np.ndarray) -> float:
        """Return the objective at theta."""

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the objective and its gradient, float64 (F,)."""


class Readout(NamedTuple):
    """Streams (N, S, D) of all cached cells, positions (R,) that are read, and a batch's loss, summed over its cells."""

    streams: np.ndarray
    read: Tensor
    loss: Callable[[Output], Tensor]


class ModelObjective:
    """Mean loss of cached cells under steering, and its gradient.

    Cost of one gradient: a forward and a backward pass of the blocks above the steered layer for every cell and readout;
    memory that of one batch of cells.

    Parameters
    ----------
    cached : the source cells' streams; `cells` picks those in the objective
    mode : multiply or add (see intervene)
    """

    def __init__(
        self,
        cached: CachedCells,
        cells: np.ndarray,
        sae: TopKSAE,
        readouts: list[Readout],
        *,
        mode: str = "multiply",
        batch_size: int = 8,
    ) -> None:
        if mode not in ("multiply", "add"):
            raise ValueError(f"mode {mode!r} has no gradient at theta = 0; take multiply or add")
        self.cached, self.cells, self.sae, self.batch_size = cached, cells, sae, batch_size
        self.passes, self.mode = readouts, mode
        with torch.no_grad():
            self.codes = [
                [sae.encode(stream[:, cached.tokens]) for stream in cached.batches(cells, batch_size, one.streams)]
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

    def _batch(self, one: Readout, stream: Tensor, codes: Codes, theta: Tensor) -> Tensor:
        with mixed_precision(stream.device):
            if self.mode == "multiply":
                delta = edit_codes(self.sae, codes, theta)
            else:
                delta = (theta @ self.sae.W_dec).expand(*codes.values.shape[:-1], -1)
            steered = apply(stream, self.cached.tokens, delta)
            output = self.cached.model.forward_from(self.cached.layer, steered, one.read)
        return one.loss(output)


class ExpressionObjective(ModelObjective):
    """Weighted squared distance of the predicted expression to the target's mean.

    Parameters
    ----------
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
        mode: str = "multiply",
        batch_size: int = 8,
    ) -> None:
        # a readout without weighted genes, and the head's other genes, would be computed for nothing
        readouts = [
            _expression(cached, readout, readout.columns[weights[readout.columns] > 0], mu, weights)
            for readout in cached.readouts
            if (weights[readout.columns] > 0).any()
        ]
        super().__init__(cached, cells, sae, readouts, mode=mode, batch_size=batch_size)


class LatentFinalObjective(ModelObjective):
    """Distance, not squared, of the cell's final embedding to the target's mean (D,): what the published code minimises."""

    def __init__(
        self,
        cached: CachedCells,
        cells: np.ndarray,
        sae: TopKSAE,
        mu: np.ndarray,
        *,
        mode: str = "multiply",
        batch_size: int = 8,
    ) -> None:
        goal = torch.as_tensor(mu, dtype=torch.float32, device=cached.device)
        readout = Readout(cached.streams, cached.valid, lambda output: (output.final.float().mean(1) - goal).norm(dim=1).sum())
        super().__init__(cached, cells, sae, [readout], mode=mode, batch_size=batch_size)


class MixedObjective:
    """weight * latent / latent(0) + (1 - weight) * expression / expression(0); a term of weight 0 is never computed."""

    def __init__(self, latent: LatentProblem, expression: ExpressionObjective, weight: float) -> None:
        zero = np.zeros(len(latent.W))
        self.terms: list[tuple[float, Objective]] = []
        if weight > 0:
            self.terms.append((weight / latent.value(zero), latent))
        if weight < 1:
            self.terms.append(((1 - weight) / expression.value(zero), expression))

    def value(self, theta: np.ndarray) -> float:
        """Return the objective at theta (F,); 1 at theta = 0."""
        return sum(scale * term.value(theta) for scale, term in self.terms)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the objective and its gradient, float64 (F,)."""
        value, gradient = 0.0, np.zeros(len(theta))
        for scale, term in self.terms:
            one, slope = term.value_and_gradient(theta)
            value += scale * one
            gradient += scale * slope
        return value, gradient


def _expression(cached: CachedCells, readout: MaskedReadout, genes: np.ndarray, mu: np.ndarray, weights: np.ndarray) -> Readout:
    goal, weight = (torch.as_tensor(values[genes], dtype=torch.float32, device=cached.device) for values in (mu, weights))

    def loss(output: Output) -> Tensor:
        assert output.expression is not None
        return ((output.expression.float() - goal).square() * weight).sum()

    return Readout(readout.streams, cached.valid[torch.from_numpy(genes).to(cached.device)], loss)
