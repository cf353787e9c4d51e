"""Some cells as a page of features shows them: where they lie, and what the features do in each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..interpret.activity import cell_codes
from .annotation import Inputs
from .artefact import built
from .context import Context
from .feature_activity import ALL
from .projection import fit_umap

VERSION = 1
MAX_CELLS = 400
MIN_UMAP = 20
"""Fewer cells are laid out by their first two principal components."""


def feature_cells(context: Context, given: Inputs) -> tuple[pd.DataFrame, np.ndarray]:
    """Return some cells that fits may see, with a layout of their mean activations, and what the features do in them."""
    source, seed, label = given.source, context.config.annotate.seed, context.config.dataset.label
    rng = np.random.default_rng([seed, 41])
    some = np.sort(rng.permutation(source.fit)[:MAX_CELLS])

    def build(folder: Path) -> None:
        codes, _, means = cell_codes(given.dictionary.sae, source.tokens, some)
        if len(some) >= MIN_UMAP:
            xy = np.asarray(fit_umap(means, seed).embedding_)
        else:
            u, s, _ = np.linalg.svd(means - means.mean(0), full_matrices=False)
            xy = np.zeros((len(some), 2))
            xy[:, : min(2, len(s))] = (u * s)[:, :2]
        np.savez(folder / "cells.npz", codes=codes, xy=xy)

    settings = {"cells": MAX_CELLS, "seed": seed, "test": source.split_key}
    parents = [source.artefact, given.dictionary.artefact]
    artefact = built(context, "cell-activity", build, version=VERSION, reads=settings, parents=parents)
    with np.load(artefact.path / "cells.npz") as file:
        codes, xy = file["codes"], file["xy"]
    types = source.obs[label].astype(str).to_numpy()[some] if label is not None else np.full(len(some), ALL)
    return pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "type": types}), codes
