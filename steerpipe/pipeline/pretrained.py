"""The embedded model: trained, and scored on data that it never saw."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from ..config import Config, DatasetConfig, as_dict
from ..data import datasets
from ..data.contrast import group_labels
from ..data.genes import align, gene_list
from ..models.aido_cell import AidoCell, ArchConfig
from ..models.checkpoints import OWN_LICENCE, load_aido, model_digest, provenance, save_model
from ..models.preprocess import DepthRule
from ..pretraining.panel import build_panel
from ..pretraining.score import Profiles, identity_table, masked_table
from ..pretraining.train import pretrain
from ..progress import add_task, progress
from .activations import load_cells
from .artefact import Artefact, built
from .context import Context

log = logging.getLogger(__name__)
VERSION = 3
MINI_FOLD = 4.0
"""`mini` is asked for a profile four times deeper than the cell: the middle of what it was trained on."""


def training_counts(dataset: str, genes: Sequence[str]) -> np.ndarray:
    """Return the training cells' counts over a model's genes, uint16 (N, G)."""
    return _counts_over(datasets.load(DatasetConfig(name=dataset)), genes)


def _counts_over(adata: AnnData, genes: Sequence[str]) -> np.ndarray:
    return np.asarray(align(adata.var_names, genes).apply(adata.X[:]).toarray().astype(np.uint16))


def score_model(model: AidoCell, config: Config, train: np.ndarray, *, max_cells: int) -> dict[str, pd.DataFrame]:
    """Score a model on the configured dataset: masked genes, and how well CD8 T cells are told from CD4 T cells.

    Parameters
    ----------
    config : its dataset's groups `cd4` and `cd8` say which cells those are; its layer is probed
    train : uint16 (M, G) the model's training cells, for the predictors that it is compared with
    max_cells : cells scored at the most, in either table, drawn with seed 0
    """
    cells = load_cells(config, model.genes)
    counts = cells[:].toarray()
    rng = np.random.default_rng(0)

    def some(rows: np.ndarray) -> np.ndarray:
        return np.sort(rng.permutation(rows)[:max_cells])

    rows = some(np.arange(len(counts)))
    tables = {"masked": masked_table(model, Profiles(counts[rows], cells.valid), train)}
    groups, label = config.dataset.groups, config.dataset.label
    if label is not None and {"cd4", "cd8"} <= groups.keys():
        labels = cells.obs[label].astype(str)
        cd4, cd8 = (labels.isin(group_labels(name, config.dataset, labels)) for name in ("cd4", "cd8"))
        rows = some(np.flatnonzero(cd4 | cd8))
        positive = cd8.to_numpy()[rows]
        tables["identity"] = identity_table(model, Profiles(counts[rows], cells.valid), positive, config.layer.index)
    return tables


def trained(context: Context) -> Artefact:
    """Return the artefact of the trained model: config.json, genes.txt, model.safetensors, curve.jsonl."""
    config = context.config.pretrain
    settings = as_dict(config)
    minutes = settings.pop("minutes")

    def build(folder: Path) -> None:
        adata = datasets.load(DatasetConfig(name=config.dataset))
        embedded = datasets.pbmc68k_reduced()
        if config.start is None:
            required = [gene for gene in embedded.var_names if gene in set(gene_list())]
            panel = build_panel(adata, required, size=config.panel_size)
            model = AidoCell(ArchConfig(128, 6, 4, 320, len(panel), depth=DepthRule(0.0, MINI_FOLD)), panel)
        else:
            model = load_aido(config.start)
        counts = _counts_over(adata, model.genes)
        with progress() as bar:
            task = add_task(bar, "pretrain", config.total_steps)

            def report(step: int, row: dict[str, float]) -> None:
                bar.update(task, completed=step, note=f"loss {row['loss']:.4f}")
                log.info("step %d %s", step, {k: round(v, 4) for k, v in row.items() if k != "step"})

            small = align(embedded.var_names, model.genes).valid
            started = config.start is not None
            pretrain(model, counts, config, folder, panels=[small], started=started, minutes=minutes, report=report)
        # what is trained on from somebody's weights stays under their licence
        licence = OWN_LICENCE if config.start is None else provenance(config.start)["licence"]
        save_model(model, folder, licence=licence)
        for file in folder.glob("*.pt"):  # checkpoint and teachers
            file.unlink()

    inputs = [] if config.start is None else [model_digest(config.start)]
    return built(context, "pretrain", build, version=VERSION, reads=settings, inputs=inputs)
