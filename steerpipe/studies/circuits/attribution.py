"""Gradient attribution: the first-order estimate of every source's ablation at once, by one backward pass a target."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ...steering.intervene import Batch
from .network import LayerCodes, LayeredCells


def attributions(
    network: LayeredCells, layer: int, to: int, targets: np.ndarray, codes: LayerCodes, *, n_cells: int
) -> np.ndarray:
    """Return theta_i z_i . d zbar_j / d x of theta = -1, summed over a cell's tokens, float32 (n, F, J).

    Attribution patching (Nanda 2023; Marks et al. 2024, arXiv 2403.19647) with every feature of the layer as a source. The
    gradient holds the set of active codes at `to` fixed.

    Parameters
    ----------
    targets : int64 (J,), features of layer `to`
    codes : of `layer`
    n_cells : the first so many cells, whole groups of them; memory: the blocks' activations of a group
    """
    found = []
    sae = network.saes[layer]
    W_dec = sae.W_dec.detach()
    for group in network.groups(np.arange(min(n_cells, len(network)))):
        x, genes = network.stream(layer, group)
        x.requires_grad_()
        with torch.enable_grad():
            zbar = network.pooled(to, network.advance(Batch(x, genes), layer, to))
        values, indices = codes.group(group, network.batch_size)
        columns: list[Tensor] = []
        for target in targets:
            (gradient,) = torch.autograd.grad(zbar[:, target].sum(), x, retain_graph=True)
            along = (network.taken(Batch(gradient, genes)) @ W_dec.T).gather(-1, indices)
            scores = values.new_zeros(len(group), sae.n_features)
            columns.append(-scores.scatter_add(1, indices.flatten(1), (along * values).flatten(1)))
        found.append(torch.stack(columns, -1).cpu().numpy())
    return np.concatenate(found)


def rank_correlation(attributed: np.ndarray, measured: np.ndarray) -> float:
    """Return Spearman's rho of attributed and measured effects; NaN where one of them does not vary."""
    a, b = np.ravel(attributed), np.ravel(measured)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)
