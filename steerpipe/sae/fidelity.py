"""Spliced-in fidelity: what the rest of the model loses when a dictionary's reconstruction stands in for the stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from ..device import mixed_precision
from ..models.base import CellModel, Tokens, gene_weights, hide, n_ids
from ..models.preprocess import MASK, model_input
from ..pretraining.thinning import log_cp10k
from ..progress import track
from .baselines import FeatureDictionary


class Scored(NamedTuple):
    """Of some cells: the loss at their masked genes (B,), and what is predicted of all valid genes (B, G_valid)."""

    loss: np.ndarray
    expression: np.ndarray


def splice_losses(
    model: CellModel,
    counts: sp.csr_matrix,
    valid: np.ndarray,
    layer: int,
    dictionaries: Mapping[str, FeatureDictionary],
    mean: Tensor,
    *,
    masked_share: float = 0.15,
    seed: int = 0,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Run cells with a share of their genes masked, once as they are and once for each replacement of the gene tokens' streams.

    Time: one pass of the whole model, and one of the blocks above `layer` for each dictionary and for `mean`.

    Parameters
    ----------
    model : one that predicts something of its genes
    counts : raw counts (N, G) over the model's genes
    valid : int64 (G_valid,), the dataset's genes: the tokens that are replaced
    mean : float32 (D,), the mean stream of a token: what knows nothing of the cell

    Returns
    -------
    DataFrame, one row a cell and replacement (`model` is none, `mean` the mean vector): masked_loss at the masked genes, of
    AIDO.Cell the squared error of predicted log1p CP10K, else the model's own `masked_loss`; change, the squared change of
    what is predicted (`model.predicts`) at all valid genes
    """
    read = torch.from_numpy(valid).to(next(model.parameters()).device)
    masked: _Masked = (
        _SameTokens(model, read, masked_share, seed) if model.arch.fixed else _OwnTokens(model, read, masked_share, seed)
    )
    rows = []
    for start in track(range(0, counts.shape[0], batch_size), "fidelity", -(-counts.shape[0] // batch_size)):
        with torch.no_grad(), mixed_precision(read.device):
            masked.take(counts[start : start + batch_size], start, layer)
            kept = masked.gene_streams()
            out = {"model": masked.scored(masked.stream), "mean": masked.replaced(mean.to(kept).expand_as(kept))}
            for name, dictionary in dictionaries.items():
                out[name] = masked.replaced(dictionary.decode(dictionary.encode(kept)))
        for name, (loss, y) in out.items():
            change = np.square(y - out["model"][1]).mean(1)
            rows += [
                {"dictionary": name, "cell": start + i, "masked_loss": loss[i], "change": change[i]} for i in range(len(loss))
            ]
    return pd.DataFrame(rows)


class _Masked(ABC):
    """A batch of cells of which some genes are masked, up to a layer."""

    stream: Tensor
    layer: int

    def __init__(self, model: CellModel, read: Tensor, share: float, seed: int) -> None:
        self.model: Any = model  # each class knows which kind it has
        self.read, self.share, self.seed = read, share, seed

    @abstractmethod
    def take(self, counts: sp.csr_matrix, start: int, layer: int) -> None:
        """Run cells (B, G), the first of which is number `start`, up to a layer."""

    @abstractmethod
    def gene_streams(self) -> Tensor:
        """Return the streams of the valid genes' tokens, float32 (..., D)."""

    @abstractmethod
    def replaced(self, gene_streams: Tensor) -> Scored:
        """Return `scored` with other streams at those tokens."""

    @abstractmethod
    def scored(self, stream: Tensor) -> Scored:
        """Run a stream on."""


class _SameTokens(_Masked):
    """Of a model with a token of every gene: the same genes are masked in every cell."""

    def __init__(self, model: CellModel, read: Tensor, share: float, seed: int) -> None:
        super().__init__(model, read, share, seed)
        n = max(1, round(share * len(read)))
        self.hidden = np.sort(np.random.default_rng([seed, 21]).choice(len(read), n, replace=False))

    def take(self, counts: sp.csr_matrix, start: int, layer: int) -> None:
        read = self.read
        values = model_input(counts, self.model.arch.depth, fold=1.0).to(read.device)
        values[:, read[torch.from_numpy(self.hidden).to(read.device)]] = MASK
        self.truth = log_cp10k(counts.toarray())[:, read.cpu().numpy()]
        self.layer, self.stream = layer, self.model.stream(Tokens(values, torch.arange(values.shape[1])), layer)

    def gene_streams(self) -> Tensor:
        return self.stream[:, self.read].float()

    def replaced(self, gene_streams: Tensor) -> Scored:
        return self.scored(self.stream.index_copy(1, self.read, gene_streams.to(self.stream.dtype)))

    def scored(self, stream: Tensor) -> Scored:
        y = self.model.forward_from(self.layer, stream, self.read).expression
        assert y is not None
        expression = y.float().cpu().numpy()
        return Scored(np.square(expression - self.truth)[:, self.hidden].mean(1), expression)


class _OwnTokens(_Masked):
    """Of a model whose cells have tokens of their own: a share of each cell's is masked, one at the least."""

    def take(self, counts: sp.csr_matrix, start: int, layer: int) -> None:
        self.layer, self.tokens = layer, self.model.tokens(counts)
        self.there = gene_weights(self.tokens.genes, self.read, n_ids(self.model)).bool()
        hidden = torch.zeros_like(self.there)
        for i, there in enumerate(self.there):
            at = there.nonzero()[:, 0].cpu().numpy()
            n = max(1, round(self.share * len(at)))
            hidden[i, np.random.default_rng([self.seed, 21, start + i]).choice(at, n, replace=False)] = True
        self.hidden = hidden
        self.stream = self.model.stream(hide(self.tokens, hidden), layer)

    def gene_streams(self) -> Tensor:
        return self.stream[self.there].float()

    def replaced(self, gene_streams: Tensor) -> Scored:
        stream = self.stream.clone()
        stream[self.there] = gene_streams.to(stream.dtype)
        return self.scored(stream)

    def scored(self, stream: Tensor) -> Scored:
        output = self.model.forward_from(self.layer, stream, self.read, self.tokens.genes)
        assert output.expression is not None
        loss = self.model.masked_loss(output.final, self.tokens, self.hidden)
        return Scored(loss.float().cpu().numpy(), output.expression.float().cpu().numpy())


def fidelity(losses: pd.DataFrame) -> pd.DataFrame:
    """Return (loss_mean - loss) / (loss_mean - loss_model) of `splice_losses`' rows: 1 is no harm, 0 as bad as the mean vector.

    Returns
    -------
    DataFrame, one row a dictionary: fidelity_loss, of the masked-gene loss; fidelity_expression, of predicted expression
    (1 - change / change of the mean vector); sums over the cells given
    """
    total = losses.groupby("dictionary", sort=False)[["masked_loss", "change"]].mean()
    worst, best = total.loc["mean", "masked_loss"], total.loc["model", "masked_loss"]
    found = total.drop(index=["model", "mean"])
    return pd.DataFrame(
        {
            "fidelity_loss": (worst - found["masked_loss"]) / (worst - best),
            "fidelity_expression": 1 - found["change"] / total.loc["mean", "change"],
        }
    ).reset_index()
