"""Which features of a dictionary other seeds find too: compared pair by pair, and kept."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SteerError
from ..sae.stability import Recurrence, recurrence
from ..store import Store
from .activations import Activations
from .artefact import Artefact, built
from .context import Context
from .dictionary import Dictionary, dictionary

log = logging.getLogger(__name__)
VERSION = 1
STAGE = "feature-stability"
STABLE = 0.6
"""Share of the other seeds from which a feature counts as stable (`objective.learnable=stable`)."""


def with_seed(context: Context, seed: int) -> Context:
    """Return the context of another seed of the dictionary's training."""
    config = context.config
    return replace(context, config=replace(config, sae=replace(config.sae, seed=seed)))


def of_seed(context: Context, source: Activations, seed: int) -> Dictionary:
    """Return the configured dictionary as another seed of its training gives it."""
    return dictionary(with_seed(context, seed), source)


def compared(context: Context, source: Activations, a: Dictionary, b: Dictionary, *, cells: str = "test") -> Recurrence:
    """Return what two dictionaries have in common on some of the test (or fit) cells, comparing them when that is missing."""
    return _compared(context, source, a, b, cells)[1]


def feature_stability(
    context: Context, source: Activations, found: Dictionary, *, cells: str = "test"
) -> tuple[Artefact, pd.DataFrame]:
    """Return, feature by feature, in which share of the other seeds it exists, training the seeds that are missing.

    Parameters
    ----------
    cells : test, for what is reported; fit, for what a fit is chosen by, which must not see the test cells

    Returns
    -------
    DataFrame
        feature, stability (share of the other seeds of stability.seeds in which a feature of decoder cosine >= 0.7 and code
        correlation >= 0.5 exists), energy (mean of z^2 |W_dec|^2 a token), fires (whether it does on those cells)

    Raises
    ------
    SteerError
        The dictionary was not trained here, or there is no other seed.
    """
    config = context.config
    if config.sae.path is not None:
        raise SteerError("how stable an imported SAE's features are cannot be told: its training cannot be repeated.")
    others = [seed for seed in config.stability.seeds if seed != config.sae.seed]
    if not others:
        raise SteerError(f"stability.seeds={config.stability.seeds} has no seed beside sae.seed={config.sae.seed}.")
    rivals = [of_seed(context, source, seed) for seed in others]
    pairs = [_compared(context, source, found, rival, cells) for rival in rivals]

    def build(folder: Path) -> None:
        first = pairs[0][1]
        share = np.mean([pair.a for _, pair in pairs], axis=0)
        columns = {"stability": share, "energy": first.energy_a, "fires": first.fires_a}
        pd.DataFrame({"feature": np.arange(len(share)), **columns}).to_parquet(folder / "features.parquet", index=False)

    artefact = built(
        context, STAGE, build, version=VERSION, reads={"cells": cells}, parents=[found.artefact, *(made for made, _ in pairs)]
    )
    return artefact, pd.read_parquet(artefact.path / "features.parquet")


def known_stability(store: Store, dictionary_key: str) -> pd.Series | None:
    """Return the stability of a dictionary's features, indexed by feature, where it was measured on test cells; else None."""
    records = [record for record in store.root.glob(f"{STAGE}/*/artefact.json") if _is_of(record, dictionary_key)]
    if not records:
        return None
    newest = max(records, key=lambda record: record.stat().st_mtime)
    frame = pd.read_parquet(newest.parent / "features.parquet", columns=["feature", "stability"])
    return frame.set_index("feature")["stability"]


def _compared(context: Context, source: Activations, a: Dictionary, b: Dictionary, cells: str) -> tuple[Artefact, Recurrence]:
    """The same with its artefact; the two are compared in one order whichever is named first."""
    first, second = sorted((a, b), key=lambda one: one.artefact.key)
    some = some_cells(context, source.test if cells == "test" else source.fit)

    def build(folder: Path) -> None:
        found = recurrence(first.sae, second.sae, source.tokens, some)
        np.savez(folder / "recurrence.npz", **asdict(found))

    settings = {"cells": cells, "n": len(some), "seed": context.config.seed}
    parents = [source.artefact, first.artefact, second.artefact]
    artefact = built(context, "recurrence", build, version=VERSION, reads=settings, parents=parents)
    with np.load(artefact.path / "recurrence.npz") as file:
        arrays: dict[str, Any] = {name: file[name] if file[name].ndim else float(file[name]) for name in file}
    found = Recurrence(**arrays)
    return artefact, found if first is a else found.turned()


def some_cells(context: Context, cells: np.ndarray) -> np.ndarray:
    """Return stability.cells of some cells, ascending."""
    n = min(context.config.stability.cells, len(cells))
    return np.sort(np.random.default_rng([context.config.seed, 37]).permutation(cells)[:n])


def _is_of(record: Path, dictionary_key: str) -> bool:
    found = json.loads(record.read_text())
    return bool(found["config"]["cells"] == "test" and found["parents"][0] == dictionary_key)
