"""Objectives that run through the blocks above the steered layer, with their gradients.

    match          population                                 cell
    latent_final   || mean_c e_c(theta) - mu ||^2             (1/N) sum_c || e_c(theta) - mu ||
    expression     sum_g w_g (mean_c y_cg(theta) - mu_g)^2    (1/N) sum_c sum_g w_g (y_cg(theta) - mu_g)^2
    mixed          weight * latent / latent(0) + (1 - weight) * expression / expression(0), both of the same match
    program        - rise of the mean score, in the cells' SDs, + LIMIT * max(0, shift / limit - 1)^2

e is the mean final stream over valid genes, y the predicted log1p CP10K and w_g = |mean target - mean source| of it. The cell
form draws each cell to the target's mean, and so rewards contraction. `latent` itself is a lasso: see lasso.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..device import mixed_precision
from ..errors import unknown
from ..models.base import Output
from ..sae.model import Codes, TopKSAE
from .intervene import Batch, CachedCells, MaskedReadout, check_floor, edit_codes
from .lasso import MATCHES, LatentProblem

LIMIT = 50.0
"""Cost of a move that is twice its limit, in SDs of a programme's score over the cells: above what a recipe can gain there."""


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
    """What is read of the cells, and how far it is from the target.

    Attributes
    ----------
    streams : float32 (N, S, D) of all cached cells
    read : int64 (R,), ids of the genes that are read
    observe : a batch of steered cells and its output -> (B, K), what is compared
    loss : (B, K) -> (B,), of each cell or, as one row, of their mean
    """

    streams: np.ndarray
    read: Tensor
    observe: Callable[[Batch, Output], Tensor]
    loss: Callable[[Tensor], Tensor]


class ModelObjective:
    """Loss of cached cells, or of their mean, under steering, and its gradient.

    Cost: a value is a forward pass of the blocks above the steered layer for every cell and readout. A gradient is a forward
    and a backward pass; with match=population and more cells than one batch, a forward pass for the mean comes before them,
    since the chain rule needs it: d loss / d theta = sum_c (d loss / d mean) (d v_c / d theta) / N. Memory is that of one
    batch of cells. With several readouts, each has the mean of its own genes, and the losses add up.

    Parameters
    ----------
    cached : the source cells' streams; `cells` picks those in the objective
    mode : multiply or add (see intervene)
    match : population brings the cells' mean to the target, cell each cell
    floor : float (F,), with multiply the |code| below which a feature is left alone at a token (see intervene)

    Raises
    ------
    SteerError
        for an unknown match, or a floor with another mode than multiply
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
        match: str = "population",
        floor: Tensor | None = None,
    ) -> None:
        if mode not in ("multiply", "add"):
            raise ValueError(f"mode {mode!r} has no gradient at theta = 0; take multiply or add")
        if match not in MATCHES:
            raise unknown("match", match, MATCHES)
        check_floor(mode, floor)
        self.cached, self.cells, self.sae, self.batch_size = cached, cells, sae, batch_size
        self.passes, self.mode, self.match = readouts, mode, match
        with torch.no_grad():
            self.codes = [
                [cached.encode(sae, batch, floor) for batch in cached.batches(cells, batch_size, one.streams)]
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
        for one, codes in zip(self.passes, self.codes, strict=True):
            if self.match == "cell" or len(codes) == 1:
                total += self._one_pass(one, codes, variable, gradient=gradient)
            else:
                total += self._two_passes(one, codes, variable, gradient=gradient)
        return total, None if variable.grad is None else variable.grad.cpu().numpy().astype(np.float64)

    def _one_pass(self, one: Readout, codes: list[Codes], theta: Tensor, *, gradient: bool) -> float:
        """Return one readout's loss and add its gradient to theta's: of cells, or of the mean of a single batch."""
        total, n = 0.0, len(self.cells)
        with torch.set_grad_enabled(gradient):
            for seen in self._observed(one, codes, theta):
                loss = one.loss(seen).sum() / n if self.match == "cell" else one.loss(seen.mean(0, keepdim=True)).sum()
                if gradient:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return total

    def _two_passes(self, one: Readout, codes: list[Codes], theta: Tensor, *, gradient: bool) -> float:
        """Return one readout's loss of the mean over several batches, and add its gradient to theta's."""
        n = len(self.cells)
        with torch.no_grad():
            mean = torch.stack([seen.sum(0) for seen in self._observed(one, codes, theta)]).sum(0) / n
        mean.requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            loss = one.loss(mean[None]).sum()
        if gradient:
            (slope,) = torch.autograd.grad(loss, mean)
            for seen in self._observed(one, codes, theta):
                ((seen @ slope).sum() / n).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _observed(self, one: Readout, codes: list[Codes], theta: Tensor) -> Iterator[Tensor]:
        """Yield what is compared, (B, K), of the steered cells, batch by batch."""
        for batch, code in zip(self.cached.batches(self.cells, self.batch_size, one.streams), codes, strict=True):
            with mixed_precision(batch.stream.device):
                if self.mode == "multiply":
                    delta = edit_codes(self.sae, code, theta)
                else:
                    delta = (theta @ self.sae.W_dec).expand(*code.values.shape[:-1], -1)
                steered = self.cached.add(batch, delta)
                output = self.cached.forward(steered, one.read)
            yield one.observe(steered, output)


class ExpressionObjective(ModelObjective):
    """Weighted squared distance of the predicted expression, the cells' mean or each cell's, to the target's mean.

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
        match: str = "population",
        floor: Tensor | None = None,
    ) -> None:
        # a readout without weighted genes, and the head's other genes, would be computed for nothing
        readouts = [
            _expression(cached, readout, readout.columns[weights[readout.columns] > 0], mu, weights)
            for readout in cached.readouts
            if (weights[readout.columns] > 0).any()
        ]
        super().__init__(cached, cells, sae, readouts, mode=mode, batch_size=batch_size, match=match, floor=floor)


class LatentFinalObjective(ModelObjective):
    """Distance of the final embedding to the target's mean (D,): of the cells' mean, squared, or of each cell, not squared.

    The cell form is what the published code minimises.
    """

    def __init__(
        self,
        cached: CachedCells,
        cells: np.ndarray,
        sae: TopKSAE,
        mu: np.ndarray,
        *,
        mode: str = "multiply",
        batch_size: int = 8,
        match: str = "population",
        floor: Tensor | None = None,
    ) -> None:
        goal = torch.as_tensor(mu, dtype=torch.float32, device=cached.device)

        def loss(seen: Tensor) -> Tensor:
            return (seen - goal).norm(dim=1) if match == "cell" else (seen - goal).square().sum(1)

        def observe(batch: Batch, output: Output) -> Tensor:
            return cached.pool_final(batch, output.final.float())

        # cells with tokens of their own return the streams of all of them, and no gene is to be predicted
        read = cached.valid if cached.genes is None else cached.valid[:0]
        readout = Readout(cached.streams, read, observe, loss)
        super().__init__(cached, cells, sae, [readout], mode=mode, batch_size=batch_size, match=match, floor=floor)


class MixedObjective:
    """weight * latent / latent(0) + (1 - weight) * expression / expression(0); a term of weight 0 is never computed.

    Parameters
    ----------
    latent, expression : of the same match
    """

    def __init__(self, latent: LatentProblem, expression: ExpressionObjective, weight: float) -> None:
        if latent.match != expression.match:
            raise ValueError(f"match {latent.match!r} of the latent term and {expression.match!r} of the expression term")
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


class ProgramObjective(ModelObjective):
    """What a programme's score falls by, in SDs of the source cells, and what going beyond the limit of the move costs.

    The score is linear in the predicted expression (see program.py), so that both forms of `match` read the same of it; they
    differ in the move: the length of the shift of the cells' mean, or the root mean square of the cells' shifts. The cost is
    0 within the limit and its gradient continuous; an optimum is a little beyond it, and is scaled back by its user.

    Parameters
    ----------
    weights : (G_valid,) of the score; those of 0 are not read
    start : the mean score of `cells` unsteered; scale : SD of the score over the source cells
    reach : the problem whose loss is the squared shift: of no gap, so that its residual is the shift itself
    limit : of the shift
    """

    def __init__(
        self,
        cached: CachedCells,
        cells: np.ndarray,
        sae: TopKSAE,
        weights: np.ndarray,
        start: float,
        scale: float,
        reach: LatentProblem,
        limit: float,
        *,
        mode: str = "multiply",
        batch_size: int = 8,
        match: str = "population",
        floor: Tensor | None = None,
    ) -> None:
        def readout(one: MaskedReadout) -> Readout:
            genes = one.columns[weights[one.columns] != 0]
            weight = torch.as_tensor(-weights[genes] / scale, dtype=torch.float32, device=cached.device)
            read = cached.valid[torch.from_numpy(genes).to(cached.device)]
            return Readout(one.streams, read, _predicted, lambda seen: seen @ weight)

        readouts = [readout(one) for one in cached.readouts if weights[one.columns].any()]
        super().__init__(cached, cells, sae, readouts, mode=mode, batch_size=batch_size, match=match, floor=floor)
        self.start, self.reach, self.limit = start / scale, reach, limit

    def cheap(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return what going beyond the limit costs, and its gradient (F,): no pass of the model."""
        square, of_square = self.reach.value_and_gradient(theta)
        length = float(np.sqrt(square))
        beyond = length / self.limit - 1
        if beyond <= 0:
            return 0.0, np.zeros_like(of_square)
        return LIMIT * beyond**2, LIMIT * beyond / (length * self.limit) * of_square

    def _run(self, theta: np.ndarray, *, gradient: bool) -> tuple[float, np.ndarray | None]:
        value, slope = super()._run(theta, gradient=gradient)
        cost, of_cost = self.cheap(theta)
        return value + self.start + cost, None if slope is None else slope + of_cost


class MeanObjective:
    """The mean of several objectives, such as one of each type of cells, towards a target of its own."""

    def __init__(self, terms: Sequence[Objective]) -> None:
        self.terms = list(terms)

    def value(self, theta: np.ndarray) -> float:
        """Return the mean of the terms at theta (F,)."""
        return float(np.mean([term.value(theta) for term in self.terms]))

    def value_and_gradient(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean of the terms and its gradient, float64 (F,)."""
        values, slopes = zip(*(term.value_and_gradient(theta) for term in self.terms), strict=True)
        return float(np.mean(values)), np.asarray(np.mean(slopes, axis=0))


def _expression(cached: CachedCells, readout: MaskedReadout, genes: np.ndarray, mu: np.ndarray, weights: np.ndarray) -> Readout:
    goal, weight = (torch.as_tensor(values[genes], dtype=torch.float32, device=cached.device) for values in (mu, weights))

    def loss(seen: Tensor) -> Tensor:
        return ((seen - goal).square() * weight).sum(1)

    return Readout(readout.streams, cached.valid[torch.from_numpy(genes).to(cached.device)], _predicted, loss)


def _predicted(batch: Batch, output: Output) -> Tensor:
    assert output.expression is not None
    return output.expression.float()
