"""The edit of the residual stream: what steering is, and nothing else.

The SAE's error term is kept, so that steering adds a vector at each steered token:

    multiply   x' = (alpha * z) W_dec + b + (x - SAE(x)) = x + (theta * z) W_dec,   theta = alpha - 1
    add        x' = x + theta W_dec                       the same vector at every token
    clamp      x' = x + sum_{theta_f != 0} (theta_f - z_f) d_f   theta_f is the code that feature f is set to

With a floor, multiply leaves codes alone that are below their feature's own: theta * z * [|z| >= floor].

theta = 0 changes no bit. Steered are the valid genes; or every token, depth tokens too; or some genes.

The SAE of an edit is that of the steered tokens. Of a gene-centred one (sae.model) the codes z are of a token's deviation from
its gene's mean, and multiply scales that deviation's parts; the formulas stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import SteerError
from ..models.base import PAD, CellModel, Output, gene_weights, mean_stream, n_ids
from ..sae.model import Codes, TopKSAE, weighted_rows

Edit = Callable[[Tensor], Tensor]
"""Streams of the steered tokens (B, T, D) -> what is added to them, (B, T, D)."""

MODES = ("multiply", "add", "clamp")


def recipe_edit(sae: TopKSAE, theta: Tensor, mode: str = "multiply", floor: Tensor | None = None) -> Edit:
    """Return the edit of a recipe theta (F,): what theta means is the mode's.

    Parameters
    ----------
    floor : (F,) with multiply, the |code| below which a feature is left alone at a token; default none

    Raises
    ------
    SteerError
        for a floor with another mode: add and clamp act where a feature is silent
    """
    check_floor(mode, floor)
    if mode == "add":
        return add_vector(theta @ sae.W_dec)
    return scale_features(sae, theta, floor) if mode == "multiply" else clamp_features(sae, theta, theta != 0)


def check_floor(mode: str, floor: Tensor | None) -> None:
    """Refuse a floor where codes are not multiplied."""
    if floor is not None and mode != "multiply":
        raise SteerError(f"an activity floor goes with objective.mode=multiply, not {mode}: take that, or no floor.")


def scale_features(sae: TopKSAE, theta: Tensor, floor: Tensor | None = None) -> Edit:
    """Return the edit that scales the codes by 1 + theta (F,), those of at least their feature's floor (F,)."""
    return lambda x: edit_codes(sae, above_floor(sae.encode(x), floor), theta)


def above_floor(codes: Codes, floor: Tensor | None) -> Codes:
    """Return the codes with 0 for those whose size is below their feature's floor (F,); None is no floor."""
    if floor is None:
        return codes
    return Codes(torch.where(codes.values.abs() >= floor[codes.indices], codes.values, 0.0), codes.indices)


def clamp_features(sae: TopKSAE, values: Tensor, clamped: Tensor) -> Edit:
    """Return the edit that sets the codes of the features `clamped`, bool (F,), to values (F,); 0 ablates."""
    clamped = clamped.to(values.dtype)
    vector = (clamped * values) @ sae.W_dec
    return lambda x: vector + edit_codes(sae, sae.encode(x), -clamped)


def add_vector(vector: Tensor) -> Edit:
    """Return the edit that adds one vector (D,) at every steered token."""
    return lambda x: vector.expand_as(x)


class ReplayedCodes:
    """Multiplies the codes of some cells again and again, encoding their streams but once: encoding costs as much as a block.

    For `run_edit` on one and the same cells and batch size: the codes are kept in the order in which it asks for them. Memory:
    8 bytes a code.
    """

    def __init__(self, sae: TopKSAE) -> None:
        self.sae = sae
        self._kept: list[tuple[Tensor, Tensor]] = []

    def edit(self, theta: Tensor) -> Edit:
        """Return the edit of one pass that scales the codes by 1 + theta (F,)."""
        asked = count()

        def edit(x: Tensor) -> Tensor:
            number = next(asked)
            if number == len(self._kept):
                codes = self.sae.encode(x)
                self._kept.append((codes.values, codes.indices.int()))
            values, indices = self._kept[number]
            return edit_codes(self.sae, Codes(values, indices.long()), theta)

        return edit


def splice(sae: TopKSAE) -> Edit:
    """Return the edit that puts the reconstruction in the stream's place: the SAE's own damage."""
    return lambda x: sae(x) - x


def edit_codes(sae: TopKSAE, codes: Codes, theta: Tensor) -> Tensor:
    """Return (theta * z) W_dec, (B, T, D), for codes that are already known; differentiable in theta (F,)."""
    return weighted_rows(codes, theta[:, None] * sae.W_dec)


def apply(stream: Tensor, tokens: Tensor, delta: Tensor) -> Tensor:
    """Add delta (B, T, D) at the positions `tokens` (T,) of a stream (B, S, D)."""
    return stream.index_add(1, tokens, delta)


class MaskedReadout(NamedTuple):
    """Streams float32 (N, S, D) of cells whose genes at `columns` (n,), among the valid ones, were masked to be read."""

    streams: np.ndarray
    columns: np.ndarray


class Batch(NamedTuple):
    """Some cached cells: streams (B, S, D) and, where cells have tokens of their own, those tokens' gene ids (B, S)."""

    stream: Tensor
    genes: Tensor | None = None


@dataclass(frozen=True)
class CachedCells:
    """Cells whose stream at the steered layer is known, so that no edit ever re-runs the lower blocks.

    Where every cell has the same tokens, a gene's id is its position, and what is steered are T columns of the stream. Where
    cells have tokens of their own (`genes`), T is S: every token has a code and a change, which are 0 where it is not steered.

    Attributes
    ----------
    model : frozen
    layer : 0-based
    streams : float32 (N, S, D), every token; may be memory-mapped
    valid : int64 (G_valid,), ids of the genes that are read, and pooled
    masked : with the masked readout: the streams from which each group of genes is read; else none, and every gene is
        read from `streams` (reconstruction)
    steered : int64 (T,), ids of the tokens that are steered; None: those of `valid`
    genes : int32 (N, S), the gene id of each token, base.PAD for none; None where every cell has the same tokens
    """

    model: CellModel
    layer: int
    streams: np.ndarray
    valid: Tensor
    masked: tuple[MaskedReadout, ...] = ()
    steered: Tensor | None = None
    genes: np.ndarray | None = None

    @property
    def tokens(self) -> Tensor:
        """int64 (T,), ids of the tokens that are steered."""
        return self.valid if self.steered is None else self.steered

    @property
    def columns(self) -> Tensor:
        """int64 (n,), the steered genes among the valid ones."""
        return torch.isin(self.valid, self.tokens).nonzero()[:, 0]

    @property
    def pooled(self) -> Tensor:
        """bool (T,): which of the steered tokens count in a cell's embedding, the mean over valid genes."""
        return torch.isin(self.tokens, self.valid)

    @property
    def token_share(self) -> float:
        """Share of the valid genes whose tokens are steered."""
        return float(self.pooled.sum()) / len(self.valid)

    @property
    def device(self) -> torch.device:
        return self.valid.device

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def readouts(self) -> tuple[MaskedReadout, ...]:
        """Where each valid gene's expression is read from; every gene is in one of them."""
        return self.masked or (MaskedReadout(self.streams, np.arange(len(self.valid))),)

    def batches(self, cells: np.ndarray, batch_size: int, streams: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield some cells, in their order, cut to the longest of a batch; `streams` are those of a masked readout."""
        source = self.streams if streams is None else streams
        for start in range(0, len(cells), batch_size):
            rows = cells[start : start + batch_size]
            if self.genes is None:
                yield Batch(torch.from_numpy(np.array(source[rows])).to(self.device))
                continue
            ids = np.asarray(self.genes[rows])
            longest = int((ids != PAD).sum(1).max())
            stream = torch.from_numpy(np.array(source[rows, :longest])).to(self.device)
            yield Batch(stream, torch.from_numpy(ids[:, :longest].astype(np.int64)).to(self.device))

    def sae_of(self, sae: TopKSAE) -> TopKSAE:
        """Return the SAE of the steered tokens, of that of all valid genes' tokens."""
        return sae.at(self.columns) if self.genes is None else sae

    def taken(self, batch: Batch) -> Tensor:
        """Return the streams (B, T, D) of the tokens that may be steered."""
        return batch.stream[:, self.tokens] if batch.genes is None else batch.stream

    def encode(self, sae: TopKSAE, batch: Batch, floor: Tensor | None = None, ids: Tensor | None = None) -> Codes:
        """Return the codes (B, T, K) of the tokens of some ids, by default the steered ones; 0 at other tokens.

        Parameters
        ----------
        floor : (F,), codes whose size is below their feature's are 0 as well
        """
        ids = self.tokens if ids is None else ids
        if batch.genes is None:
            return above_floor(sae.encode(batch.stream[:, ids]), floor)
        values, indices = above_floor(sae.encode(batch.stream), floor)
        return Codes(values * self.weights(batch, ids)[..., None], indices)

    def add(self, batch: Batch, delta: Tensor) -> Batch:
        """Add delta (B, T, D) at the steered tokens."""
        if batch.genes is None:
            return Batch(apply(batch.stream, self.tokens, delta))
        return Batch(batch.stream + delta * self.weights(batch, self.tokens)[..., None], batch.genes)

    def forward(self, batch: Batch, read: Tensor) -> Output:
        """Run the blocks above the layer, and read the genes of some ids (R,)."""
        if batch.genes is None:
            return self.model.forward_from(self.layer, batch.stream, read)
        return self.model.forward_from(self.layer, batch.stream, read, batch.genes)

    def pool(self, batch: Batch) -> Tensor:
        """Return the cells' embeddings at the layer, (B, D): means over the valid genes."""
        if batch.genes is None:
            return batch.stream[:, self.valid].mean(1)
        return mean_stream(batch.stream, self.weights(batch, self.valid))

    def pool_final(self, batch: Batch, final: Tensor) -> Tensor:
        """Return the mean (B, D) of the last stream, read at `valid`, over the valid genes."""
        return final.mean(1) if batch.genes is None else mean_stream(final, self.weights(batch, self.valid))

    def n_pooled(self, rows: np.ndarray) -> np.ndarray:
        """Return how many tokens each cell's embedding is a mean of, int64 (n,)."""
        if self.genes is None:
            return np.full(len(rows), len(self.valid))
        ids = np.asarray(self.genes[rows])
        return np.asarray(((ids != PAD) & (ids < len(self.model.genes))).sum(1))

    def weights(self, batch: Batch, ids: Tensor) -> Tensor:
        """Return float32 (B, S), 1 at the tokens of some ids, of cells with tokens of their own."""
        assert batch.genes is not None
        return gene_weights(batch.genes, ids, n_ids(self.model))


class State(NamedTuple):
    """Cells after an edit: layer and final embeddings (N, D), predicted log1p CP10K (N, G_valid); all float32."""

    layer: np.ndarray
    final: np.ndarray
    expression: np.ndarray


def run_edit(cached: CachedCells, cells: np.ndarray, edit: Edit | None, *, batch_size: int = 8) -> State:
    """Edit the streams of some cells and run the rest of the model; `None` is no edit.

    Returns
    -------
    State
        embeddings are means over valid genes, `layer` at the steered layer after the edit
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for batch in cached.batches(cells, batch_size):
            batch = _edited(cached, batch, edit)
            output = cached.forward(batch, cached.valid)
            expression = output.final.new_zeros(len(batch.stream), 0) if output.expression is None else output.expression
            parts.append((cached.pool(batch), cached.pool_final(batch, output.final), expression))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        for streams, genes in cached.masked if columns[2].shape[1] else ():
            read = cached.valid[torch.from_numpy(genes).to(cached.device)]
            outputs = [
                cached.forward(_edited(cached, batch, edit), read).expression
                for batch in cached.batches(cells, batch_size, streams)
            ]
            columns[2][:, genes] = torch.cat([y for y in outputs if y is not None])
    return State(*(column.float().cpu().numpy() for column in columns))


def _edited(cached: CachedCells, batch: Batch, edit: Edit | None) -> Batch:
    return batch if edit is None else cached.add(batch, edit(cached.taken(batch)))
