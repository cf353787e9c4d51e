"""What every stage is given, and what several of them read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import EMBEDDED, Config
from ..run import Run
from ..store import Store


@dataclass(frozen=True)
class Context:
    """A stage's config, the store that it takes its inputs from, and the run folder that it reports to."""

    config: Config
    store: Store
    run: Run


def model_phrase(config: Config) -> str:
    """Return the model and the data as captions name them."""
    own = " (our own small network, not AIDO.Cell)" if config.model.path in EMBEDDED else ""
    return f"model {config.model.path}{own} · {config.dataset.path or config.dataset.name}"


def sae_phrase(config: Config) -> str:
    """Return the SAE as captions name it."""
    path = config.sae.path
    centred = ", gene-centred" if config.sae.centre == "gene" else ""
    return f"SAE x{config.sae.expansion} k{config.sae.k}{centred}" if path is None else f"SAE of {Path(path).name}"


def kept(file: Path, compute: Callable[[], np.ndarray]) -> None:
    """Compute an array unless a killed run has left it; written beside, then renamed."""
    if not file.is_file():
        beside = file.with_suffix(".tmp.npy")
        np.save(beside, compute())
        beside.replace(file)
