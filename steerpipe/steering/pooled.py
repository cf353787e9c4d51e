"""Codes pooled over a cell's tokens: all that the latent lasso needs of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..sae.model import TopKSAE
from .intervene import CachedCells


def pooled_codes(
    cached: CachedCells, sae: TopKSAE, rows: np.ndarray, *, batch_size: int, floor: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of codes and of |codes| over a cell's steered gene tokens, over its number of pooled tokens.

    Parameters
    ----------
    rows : int64 (n,), positions of the cells among the cached ones
    floor : (F,), codes whose size is below their feature's are not counted: those that such a recipe leaves alone

    Returns
    -------
    tuple of ndarray
        both float64 (n, F)
    """
    mean = np.zeros((len(rows), sae.n_features))
    size = np.zeros_like(mean)
    row, sizes = 0, cached.n_pooled(rows)
    tokens = cached.tokens[cached.pooled]
    with torch.no_grad():
        for batch in cached.batches(rows, batch_size):
            codes = cached.encode(sae, batch, floor, tokens)
            for values, indices in zip(codes.values.double().cpu(), codes.indices.cpu(), strict=True):
                flat, n = indices.flatten().numpy(), int(sizes[row])
                mean[row] = np.bincount(flat, values.flatten().numpy(), sae.n_features) / n
                size[row] = np.bincount(flat, values.abs().flatten().numpy(), sae.n_features) / n
                row += 1
    return mean, size
