"""Raw counts to model input: log1p(CP10K) and the two depth tokens, in float32 whatever the model computes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..errors import SteerError

MASK = -1.0
"""Value of a masked gene, written after normalisation so that the depth does not change."""

MAX_VALUE = 20.0


@dataclass(frozen=True)
class DepthRule:
    """How the two depth tokens follow from a cell's total count.

    AIDO.Cell clamps both to at least 5 (log10 of 100,000), so that ordinary cells all read 5.0. A model trained on
    thinned counts reads the true depth (`floor` 0) and is asked for a profile `fold` times deeper than the input.
    A `goal`, in counts, is the same target depth for every cell.
    """

    floor: float = 5.0
    fold: float = 1.0
    goal: float | None = None

    def tokens(self, total: Tensor, fold: float | None = None) -> Tensor:
        """Return float32 (N, 2): log10 target depth and log10 input depth, from totals (N,) in counts."""
        source = total.log10()
        if self.goal is not None and fold is None:
            # asked for outright, so not held up to the floor
            return torch.stack([torch.full_like(source, math.log10(self.goal)), source.clamp_min(self.floor)], dim=1)
        target = source + math.log10(self.fold if fold is None else fold)
        return torch.stack([target, source], dim=1).clamp_min(self.floor)


def model_input(counts: sp.spmatrix | np.ndarray | Tensor, depth: DepthRule, *, fold: float | None = None) -> Tensor:
    """Normalise aligned counts and append the depth tokens.

    Parameters
    ----------
    counts : (N, G) raw counts over the model's genes, missing genes 0
    depth : the model's rule for the depth tokens
    fold : target depth over input depth in place of the rule's own

    Returns
    -------
    Tensor float32 (N, G + 2)
        log1p(count / total * 10,000), total over the aligned genes only; then target and input depth.

    Raises
    ------
    SteerError
        A cell has no count on the model's genes.
    """
    dense = counts.toarray() if sp.issparse(counts) else counts  # type: ignore[union-attr]
    values = torch.as_tensor(dense, dtype=torch.float32)
    total = values.sum(dim=1)
    if not bool((total > 0).all()):
        empty = int((total <= 0).sum())
        raise SteerError(f"{empty} cells have no count on the model's genes; drop them before running.")
    cp10k = torch.log1p(values / total[:, None] * 1e4)
    return torch.cat([cp10k, depth.tokens(total, fold)], dim=1).clamp_max(MAX_VALUE)
