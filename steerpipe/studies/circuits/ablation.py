"""What switching one feature off at a layer does to the codes of later layers and to predicted expression.

The error term of the dictionary is kept: theta_i = -1 takes z_i d_i away at every token, and nothing else (steering.intervene).
The nulls are edits of the same kind: the code of the same feature along a random direction as long as its decoder row, and
other features that are as active.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...interpret.dose import matched_features
from .network import HEAD, LayerCodes, LayeredCells, Level, Readings

FEATURE, DOSE, DIRECTION, MATCHED = "feature", "dose", "direction", "matched"


class Trial(NamedTuple):
    """One edit: dose * z_f along a vector.

    Attributes
    ----------
    kind : feature (the source itself, off), dose (itself, doubled), direction or matched (nulls)
    feature : whose codes give the size at each token
    dose : theta, -1 is off
    vector : float32 (D,)
    """

    kind: str
    feature: int
    dose: float
    vector: Tensor


class Response(NamedTuple):
    """What a trial changes.

    Attributes
    ----------
    cells : int64 (n,), those in which its feature fires
    changes : {level: float32 (n, .)}, after less before; every other cell's are 0
    """

    cells: np.ndarray
    changes: dict[Level, np.ndarray]


def trials(
    network: LayeredCells, layer: int, feature: int, activity: np.ndarray, *, n_random: int, dose: bool, seed: int
) -> list[Trial]:
    """Return a source's ablation, its doubling where asked for, and n_random nulls of either kind.

    Parameters
    ----------
    activity : (N, F), mean |code| of every cell; matched features are drawn among those nearest in its mean over the cells
        in which the source fires
    seed : of this run; the source's own draws do not depend on which other sources there are
    """
    W_dec = network.saes[layer].W_dec
    row = W_dec[feature].detach()
    rng = np.random.default_rng([seed, layer, feature, 61])
    found = [Trial(FEATURE, feature, -1.0, row)]
    if dose:
        found.append(Trial(DOSE, feature, 1.0, row))
    for _ in range(n_random):
        unit = torch.from_numpy(rng.standard_normal(len(row)).astype(np.float32)).to(row)
        found.append(Trial(DIRECTION, feature, -1.0, unit * (row.norm() / unit.norm())))
    there = activity[activity[:, feature] > 0].mean(0)
    others = matched_features(there, feature, n_random, rng)
    return found + [Trial(MATCHED, int(other), -1.0, W_dec[int(other)].detach()) for other in others]


def respond(network: LayeredCells, layer: int, codes: LayerCodes, trial: Trial, clean: Readings) -> Response:
    """Run one trial in the cells where its feature fires.

    Parameters
    ----------
    codes : of the layer; clean : the cells' readings without any edit, LayeredCells.clean

    Returns
    -------
    Response
        cost: the blocks above the layer, for every group of cells in which the feature fires
    """
    z = codes.of(trial.feature)
    cells = np.flatnonzero((z != 0).any(1).cpu().numpy())
    levels = network.levels(layer)
    parts: dict[Level, list[np.ndarray]] = {level: [] for level in levels}
    with torch.no_grad():
        for group in network.groups(cells):
            batch = network.stream(layer, group)
            delta = trial.dose * z[group, : batch.stream.shape[1], None] * trial.vector
            after = network.read(layer, network.add(batch, delta), levels)
            mine = np.isin(group, cells)
            for level in levels:
                change = (after[level] - clean[level][group]).cpu().numpy()
                parts[level].append(change[mine])
    return Response(cells, {level: np.concatenate(rows) for level, rows in parts.items()})


def level_name(level: Level) -> str:
    """Return how files and tables name a level."""
    return HEAD if level == HEAD else f"layer {level}"
