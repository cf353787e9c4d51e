"""How much of an edit's effect on predicted expression goes through some features of a later layer.

Those features are held: at layer b their codes are put back to their clean values, (z_clean - z_now) W_dec for them alone, and
the rest runs on. What is then left of the effect did not go through them. With other features held in their place the share
says what holding as many of any kind does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...steering.intervene import edit_codes
from .network import HEAD, LayerCodes, LayeredCells, Readings

Delta = Callable[[np.ndarray], Tensor]
"""A group of cells (B,) -> what is added to their streams at the valid genes, (B, T, D); what is beyond their tokens is cut."""


class Held(NamedTuple):
    """Changes of the score in n cells.

    Attributes
    ----------
    total : float64 (n,), nothing held
    rest : float64 (H, n), with each set of features held
    """

    total: np.ndarray
    rest: np.ndarray


def hold(
    network: LayeredCells,
    layer: int,
    delta: Delta,
    at: int,
    sets: Sequence[np.ndarray],
    *,
    weights: np.ndarray,
    clean: Readings,
    later: LayerCodes,
) -> Held:
    """Run an edit of `layer`, then again with each set of features of layer `at` held at their clean codes.

    The edit runs to `at` once; cost a group of cells: (at - layer) blocks, and (1 + H) times those above `at`.

    Parameters
    ----------
    sets : H sets of features, int64 (n_h,)
    weights : float (G,), the score is their product with predicted expression
    clean : readings without the edit, run on from `layer`; later : clean codes of layer `at`
    """
    sae = network.saes[at]
    score = torch.as_tensor(weights, dtype=torch.float32, device=network.valid.device)
    masks = [torch.isin(torch.arange(sae.n_features), torch.from_numpy(some)).to(score) for some in sets]
    total, rest = [], []
    with torch.no_grad():
        for group in network.groups():
            batch = network.stream(layer, group)
            batch = network.advance(network.add(batch, delta(group)[:, : batch.stream.shape[1]]), layer, at)
            now, before = network.encode(at, batch), later.group(group, network.batch_size)
            backs = [None, *(edit_codes(sae, before, mask) - edit_codes(sae, now, mask) for mask in masks)]
            rows = []
            for back in backs:
                held = batch if back is None else network.add(batch, back)
                after = network.read(at, held, [HEAD])[HEAD]
                rows.append((after - clean[HEAD][group]) @ score)
            total.append(rows[0])
            rest.append(torch.stack(rows[1:]) if len(rows) > 1 else rows[0].new_zeros(0, len(group)))
    return Held(torch.cat(total).double().cpu().numpy(), torch.cat(rest, 1).double().cpu().numpy())


class Share(NamedTuple):
    """A mediation share, with the 2.5 and 97.5 percentiles of its bootstrap over cells."""

    share: float
    lo: float
    hi: float


def mediated(total: np.ndarray, rest: np.ndarray, n_bootstrap: int, rng: np.random.Generator) -> Share:
    """Return 1 - held effect / total effect, of the means over cells (n,); NaN where there is no effect.

    0: nothing goes through the held features; 1: all of it; above 1 or below 0: what they pass on is opposed by other ways.
    """
    if total.sum() == 0:
        return Share(float("nan"), float("nan"), float("nan"))
    drawn = rng.integers(0, len(total), (n_bootstrap, len(total)))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = 1 - rest[drawn].sum(1) / total[drawn].sum(1)
    lo, hi = np.nanpercentile(shares, [2.5, 97.5])
    return Share(float(1 - rest.sum() / total.sum()), float(lo), float(hi))
