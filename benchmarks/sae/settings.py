"""What is trained on: the settings of the table and their tokens, the same for every trainer, in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .planted import plant
from .tokens import normalised


@dataclass(frozen=True)
class Setting:
    """A dictionary on some tokens.

    Attributes
    ----------
    tokens : that a run trains on, in passes over what there is; round_steps : steps of a round of the speed measurement
    timed : whether speed and memory are measured on it
    n_true, active : of planted tokens: features, and how many fire at a token
    """

    name: str
    width: int
    features: int
    k: int
    tokens: int
    round_steps: int = 4
    timed: bool = True
    n_true: int | None = None
    active: float = 0


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("mini-x8", 128, 1024, 32, 1_000_000),
        Setting("mini-x16", 128, 2048, 32, 1_000_000),
        Setting("synthetic-640", 640, 5120, 32, 400_000, round_steps=1, n_true=2560, active=24),
        Setting("planted", 128, 1024, 16, 1_000_000, timed=False, n_true=512, active=12),
    )
}
N_PLANTED = {128: (200_000, 20_000), 640: (80_000, 16_000)}


class Data(NamedTuple):
    """Training and held-out tokens float32 (n, D), and the planted directions (F, D), if any."""

    train: Tensor
    held: Tensor
    truth: np.ndarray | None


@lru_cache(maxsize=1)
def load(setting: Setting, folder: Path) -> Data:
    """Return a setting's tokens, centred and of mean squared norm D."""
    if setting.n_true is None:
        with np.load(folder / "real.npz") as found:
            train, held, truth = found["train"], found["held"], None
    else:
        n_train, n_held = N_PLANTED[setting.width]
        tokens, truth = plant(n_train + n_held, setting.width, setting.n_true, setting.active, seed=0)
        train, held = tokens[:n_train], tokens[n_train:]
    train, held = normalised(train, held)
    return Data(torch.from_numpy(train), torch.from_numpy(held), truth)
