"""Spliced-in fidelity: what the rest of the model loses when a dictionary's reconstruction stands in for the stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from ..device import mixed_precision
from ..models.aido_cell import AidoCell
from ..models.preprocess import MASK, model_input
from ..pretraining.thinning import log_cp10k
from ..progress import track
from .baselines import FeatureDictionary


def splice_losses(
    model: AidoCell,
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
    counts : raw counts (N, G) over the model's genes
    valid : int64 (G_valid,), the dataset's genes: the tokens that are replaced
    mean : float32 (D,), the mean stream of a token: what knows nothing of the cell

    Returns
    -------
    DataFrame, one row a cell and replacement (`model` is none, `mean` the mean vector): masked_loss, the squared error of
    predicted log1p CP10K at the masked genes; change, the squared change of predicted expression at all valid genes
    """
    rng = np.random.default_rng([seed, 21])
    hidden = np.sort(rng.choice(len(valid), max(1, round(masked_share * len(valid))), replace=False))
    device = next(model.parameters()).device
    tokens, truth = torch.from_numpy(valid).to(device), log_cp10k(counts.toarray())[:, valid]
    rows = []
    for start in track(range(0, counts.shape[0], batch_size), "fidelity", -(-counts.shape[0] // batch_size)):
        values = model_input(counts[start : start + batch_size], model.arch.depth, fold=1.0).to(device)
        values[:, tokens[torch.from_numpy(hidden).to(device)]] = MASK
        target = truth[start : start + batch_size]
        with torch.no_grad(), mixed_precision(device):
            stream = model.stream(values, layer)
            whole = _expression(model, layer, stream, tokens)
            kept = stream[:, tokens].float()
            predicted = {"model": whole, "mean": _replaced(model, layer, stream, tokens, mean.to(device).expand_as(kept))}
            for name, dictionary in dictionaries.items():
                x_hat = dictionary.decode(dictionary.encode(kept))
                predicted[name] = _replaced(model, layer, stream, tokens, x_hat)
        for name, y in predicted.items():
            loss = np.square(y[:, hidden] - target[:, hidden]).mean(1)
            change = np.square(y - whole).mean(1)
            rows += [
                {"dictionary": name, "cell": start + i, "masked_loss": loss[i], "change": change[i]} for i in range(len(loss))
            ]
    return pd.DataFrame(rows)


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


def _expression(model: AidoCell, layer: int, stream: Tensor, tokens: Tensor) -> np.ndarray:
    y = model.forward_from(layer, stream, tokens).expression
    assert y is not None
    return y.float().cpu().numpy()


def _replaced(model: AidoCell, layer: int, stream: Tensor, tokens: Tensor, gene_streams: Tensor) -> np.ndarray:
    return _expression(model, layer, stream.index_copy(1, tokens, gene_streams.to(stream.dtype)), tokens)
