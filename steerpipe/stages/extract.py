"""`steer extract`: the model's activations over a dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..activations.extract import extract
from ..activations.shards import Shards
from ..config import Config, as_dict
from ..data import datasets
from ..data.genes import Alignment, align
from ..device import pick_device
from ..digest import file_digest
from ..errors import SteerError
from ..models.aido_cell import AidoCell
from ..models.checkpoints import load_model, model_digest, model_folder, provenance, read_config
from ..store import Artefact
from .checkpoint import introduce
from .common import Context

log = logging.getLogger(__name__)
VERSION = 1


@dataclass(frozen=True)
class Cells:
    """A dataset as a model sees it.

    Attributes
    ----------
    counts : csr float32 (N, G) raw counts in the model's gene order
    alignment : which genes matched
    obs : labels, one row a cell
    """

    counts: sp.csr_matrix
    alignment: Alignment
    obs: pd.DataFrame

    @property
    def valid(self) -> np.ndarray:
        """int64 (G_valid,): positions of the genes that the dataset has."""
        return np.flatnonzero(self.alignment.valid)


@dataclass(frozen=True)
class Activations:
    """What `steer extract` stored; arrays are memory-mapped.

    Attributes
    ----------
    layer, final : float32 (N, D) cell embeddings, mean over valid genes
    expression : float32 (N, G_valid) predicted log1p CP10K, None for a model without a head
    genes : the valid genes' symbols
    """

    artefact: Artefact
    shards: Shards
    obs: pd.DataFrame
    genes: list[str]
    layer: np.ndarray
    final: np.ndarray
    expression: np.ndarray | None


def main(context: Context) -> None:
    """Extract, and report what was stored."""
    found = activations(context)
    size = sum(file.stat().st_size for file in found.artefact.path.iterdir())
    context.run.metrics(
        {
            "extract/cells": found.shards.n_cells,
            "extract/genes": found.shards.n_genes,
            "extract/width": found.shards.width,
            "extract/bytes": size,
            "extract/seconds": found.artefact.seconds,
        }
    )


def load_steered_model(config: Config) -> AidoCell:
    """Load the configured model onto the configured device."""
    return load_model(config.model.path, config.model.revision, device=pick_device(config.device))


def layer_index(config: Config) -> int:
    """Return the 0-based steering layer; -1 counts from the end."""
    n = read_config(model_folder(config.model.path, config.model.revision)).num_hidden_layers
    index = config.layer.index if config.layer.index >= 0 else n + config.layer.index
    if not 0 <= index < n:
        raise SteerError(f"layer.index={config.layer.index} does not exist: the model has blocks 0 to {n - 1}.")
    return index


def load_cells(config: Config, genes: tuple[str, ...]) -> Cells:
    """Load the configured dataset in a model's gene order."""
    adata = datasets.load(config.dataset)
    alignment = align(adata.var_names, genes, aliases=config.dataset.aliases)
    counts = alignment.apply(adata.X)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    if not totals.all():
        raise SteerError(f"{int((totals == 0).sum())} cells have no count on the model's {len(genes)} genes; drop them.")
    return Cells(counts, alignment, adata.obs)


def activations(context: Context, check: Callable[[pd.DataFrame], object] = lambda obs: None) -> Activations:
    """Return the dataset's activations, extracting them when they are missing.

    `check` is called with the cells' obs before anything is computed: a wrong label should not cost an extraction.
    """
    config = context.config
    layer = layer_index(config)
    digest = model_digest(config.model.path, config.model.revision)
    introduce(context, digest)

    def build(folder: Path) -> None:
        model = load_steered_model(config)
        cells = load_cells(config, model.genes)
        check(cells.obs)
        matched = cells.alignment
        log.info(
            "%d cells; %d of the model's %d genes found (%d columns by symbol, %d through the alias map)",
            len(cells.obs), len(cells.valid), len(model.genes), matched.by_symbol, matched.by_alias,
        )  # fmt: skip
        extract(
            model,
            cells.counts,
            cells.valid,
            layer,
            folder,
            dtype=config.extract.dtype,
            shard_tokens=config.extract.shard_tokens,
            batch_size=config.model.batch_size,
        )
        obs = cells.obs.astype(str)
        obs.insert(0, "cell", cells.obs.index.astype(str))
        obs.to_parquet(folder / "obs.parquet", index=False)
        (folder / "genes.txt").write_text("\n".join(model.genes[i] for i in cells.valid) + "\n")
        # the licence goes where the activations go
        (folder / "model.json").write_text(json.dumps(provenance(config.model.path, config.model.revision), indent=1))

    dataset = as_dict(config.dataset)
    for name in ("groups", "label", "batch"):  # every column of obs is stored, whichever is looked at
        dataset.pop(name)
    inputs = [digest]
    if config.dataset.path is not None and Path(config.dataset.path).is_file():
        inputs.append(file_digest(Path(config.dataset.path)))
        dataset.pop("path")
    settings = {"dataset": dataset, "layer": layer, "extract": as_dict(config.extract)}
    artefact = context.store.get("extract", version=VERSION, config=settings, inputs=inputs, build=build)
    path = artefact.path
    expression = path / "expression.npy"
    return Activations(
        artefact,
        Shards(path),
        pd.read_parquet(path / "obs.parquet"),
        (path / "genes.txt").read_text().split(),
        np.load(path / "layer.npy", mmap_mode="r"),
        np.load(path / "final.npy", mmap_mode="r"),
        np.load(expression, mmap_mode="r") if expression.is_file() else None,
    )
