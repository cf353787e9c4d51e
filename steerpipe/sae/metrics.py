"""How well a dictionary reconstructs, and which of its features live: spec'd for training and for held-out cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations.tokens import TokenSource
from .baselines import FeatureDictionary, own_batches

RARE = 1e-3


@dataclass(frozen=True)
class SaeScore:
    """Scores on the tokens of some cells.

    Attributes
    ----------
    fvu : sum ||x - x_hat||^2 / sum ||x - mean(x)||^2, the mean one vector for all tokens; of a gene-centred dictionary too, so
        that its figure stands beside that of others (what its gene means explain is then part of it)
    mse_uncentred : the same over sum ||x||^2
    l0 : mean number of non-zero codes of a token
    dead, rare : share of features that never fire, and that fire on under 0.1 % of tokens (dead included)
    density : float64 (F,) share of tokens that each feature fires on
    """

    fvu: float
    mse_uncentred: float
    l0: float
    dead: float
    rare: float
    density: np.ndarray

    def flat(self, prefix: str) -> dict[str, float]:
        """Return the scalars as metrics `prefix/name`."""
        return {f"{prefix}/{name}": getattr(self, name) for name in ("fvu", "mse_uncentred", "l0", "dead", "rare")}


def score_sae(sae: FeatureDictionary, source: TokenSource, cells: np.ndarray, *, batch_size: int = 8192) -> SaeScore:
    """Score an SAE, or a baseline dictionary, on every gene token of the given cells, in one pass."""
    device = sae.W_dec.device
    moments = Moments(source.width)
    fired = torch.zeros(sae.n_features, dtype=torch.float64)
    error = 0.0
    with torch.no_grad():
        for batch, (own,) in own_batches((sae,), source, cells, batch_size):
            x = batch.to(device)
            codes = own.encode(x)
            error += float((own.decode(codes) - x).square().sum(dtype=torch.float64))
            active = codes.indices[codes.values != 0].cpu()
            fired += torch.bincount(active, minlength=sae.n_features)
            moments.add(x)
    density = (fired / moments.n).numpy()
    return SaeScore(
        fvu=error / moments.centred,
        mse_uncentred=error / moments.square,
        l0=float(density.sum()),
        dead=float((density == 0).mean()),
        rare=float((density < RARE).mean()),
        density=density,
    )


def nearest_cosine(rows_FD: Tensor) -> np.ndarray:
    """Return float32 (F,): each decoder row's largest cosine with another row. Memory: 1,024 F floats at a time."""
    unit = F.normalize(rows_FD.detach().float().cpu(), dim=1)
    found = []
    for start in range(0, len(unit), 1024):
        cosine = unit[start : start + 1024] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -1
        found.append(cosine.max(1).values)
    return torch.cat(found).numpy()


class Moments:
    """Running count, sum and squared sum of vectors (D,), in float64."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self.square = 0.0

    def add(self, x: Tensor) -> None:
        """Take in (B, D)."""
        self.n += len(x)
        self._sum += x.sum(0, dtype=torch.float64).cpu()
        self.square += float(x.square().sum(dtype=torch.float64))

    @property
    def centred(self) -> float:
        """sum ||x - mean||^2."""
        return self.square - float(self._sum.square().sum()) / max(1, self.n)
