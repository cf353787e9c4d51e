"""The embedded model: trained, and scored on data that it never saw."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from ..config import Config, DatasetConfig, as_dict
from ..config.choices import named_dataset
from ..data import datasets
from ..data.contrast import group_labels
from ..data.counts import read_rows
from ..data.genes import align, gene_list
from ..data.split import fit_and_test
from ..digest import file_digest
from ..models.aido_cell import AidoCell, ArchConfig
from ..models.checkpoints import OWN_LICENCE, load_aido, model_digest, provenance, save_model
from ..models.preprocess import DepthRule
from ..pretraining.panel import build_panel, whole_panel
from ..pretraining.score import FOLDS, Profiles, identity_table, masked_table
from ..pretraining.thinning import Mixture
from ..pretraining.train import pretrain
from ..progress import add_task, progress
from .activations import load_cells
from .artefact import Artefact, built
from .context import Context

log = logging.getLogger(__name__)
VERSION = 3
SPLIT = ("test_share", "split_seed", "test", "held", "label", "batch", "perturbation", "layer", "max_cells")
"""Of the configured dataset's settings, what says which cells the model may see."""
MINI_FOLD = 4.0
"""`mini` is asked for a profile four times deeper than the cell: the middle of what it was trained on."""


def own_cells(config: Config) -> bool:
    """Return whether the model is trained on the configured dataset: then on the cells that fits may see alone."""
    asked, own = config.pretrain, config.dataset
    if asked.datasets:
        return any((one.name, one.path) == (own.name, own.path) for one in named(config))
    if asked.path is not None:
        return own.path is not None and Path(asked.path).resolve() == Path(own.path).resolve()
    return asked.dataset == own.name


def named(config: Config) -> list[DatasetConfig]:
    """Return the settings of every dataset of `pretrain.datasets`."""
    return [named_dataset(name, config.dataset, "pretrain.datasets") for name in config.pretrain.datasets]


def training_data(config: Config) -> list[AnnData]:
    """Return the training cells of every dataset that a model is trained on, in memory."""
    if config.pretrain.datasets:
        sets = [(one, True) for one in named(config)]
    elif own_cells(config):
        sets = [(config.dataset, True)]
    else:
        sets = [(DatasetConfig(name=config.pretrain.dataset, path=config.pretrain.path), False)]
    found = []
    for dataset, split in sets:
        adata = datasets.load(dataset)
        rows = fit_and_test(adata.obs, dataset)[0] if split else np.arange(adata.n_obs)
        found.append(AnnData(read_rows(adata.X, rows), obs=adata.obs.iloc[rows], var=adata.var[[]]))
    return found


def training_counts(config: Config, genes: Sequence[str]) -> np.ndarray:
    """Return the training cells' counts over a model's genes, uint16 (N, G)."""
    return _counts_over(training_data(config), genes)


def _counts_over(sets: Sequence[AnnData], genes: Sequence[str]) -> np.ndarray:
    tables = [align(one.var_names, genes).apply(one.X).toarray().astype(np.uint16) for one in sets]
    return np.concatenate(tables)


def _mixture(sets: Sequence[AnnData], genes: Sequence[str]) -> Mixture | None:
    if len(sets) == 1:
        return None
    of = np.repeat(np.arange(len(sets)), [one.n_obs for one in sets])
    return Mixture(of, np.stack([align(one.var_names, genes).valid for one in sets]))


def score_model(model: AidoCell, config: Config, train: np.ndarray, *, max_cells: int) -> dict[str, pd.DataFrame]:
    """Score a model on the configured dataset: masked genes, and how well CD8 T cells are told from CD4 T cells.

    Parameters
    ----------
    config : its dataset's groups `cd4` and `cd8` say which cells those are; its layer is probed
    train : uint16 (M, G) the model's training cells, for the predictors that it is compared with
    max_cells : cells scored at the most, in either table, drawn with seed 0; of a dataset that it was trained on, test cells
    """
    cells = load_cells(config, model.genes)
    counts = cells[:].toarray()
    rng = np.random.default_rng(0)
    unseen = fit_and_test(cells.obs, config.dataset)[1] if own_cells(config) else np.arange(len(counts))

    def some(rows: np.ndarray) -> np.ndarray:
        return np.sort(rng.permutation(rows)[:max_cells])

    rows = some(unseen)
    tables = {"masked": masked_table(model, Profiles(counts[rows], cells.valid), train)}
    groups, label = config.dataset.groups, config.dataset.label
    if label is not None and {"cd4", "cd8"} <= groups.keys():
        labels = cells.obs[label].astype(str)
        cd4, cd8 = (labels.isin(group_labels(name, config.dataset, labels)) for name in ("cd4", "cd8"))
        rows = some(np.intersect1d(unseen, np.flatnonzero(cd4 | cd8)))
        positive = cd8.to_numpy()[rows]
        if min(positive.sum(), (~positive).sum()) < FOLDS:
            return tables
        tables["identity"] = identity_table(model, Profiles(counts[rows], cells.valid), positive, config.layer.index)
    return tables


def _files(config: Config) -> list[str]:
    """The files that are trained on, where they are the user's."""
    if config.pretrain.datasets:
        paths = [one.path for one in named(config)]
    else:
        paths = [config.pretrain.path or (config.dataset.path if own_cells(config) else None)]
    return [path for path in paths if path is not None and Path(path).is_file()]


def trained(context: Context) -> Artefact:
    """Return the artefact of the trained model: config.json, genes.txt, model.safetensors, curve.jsonl."""
    config = context.config.pretrain
    settings = as_dict(config)
    minutes = settings.pop("minutes")
    settings.pop("path")  # the file's digest stands for it
    if config.panel == "variable":  # the default is no part of a key
        settings.pop("panel")
    if not config.datasets:
        settings.pop("datasets")

    def build(folder: Path) -> None:
        sets = training_data(context.config)
        embedded = datasets.pbmc68k_reduced()
        if config.start is None:
            required = [gene for gene in embedded.var_names if gene in set(gene_list())]
            if config.panel == "all":
                panel = whole_panel(sets[0].var_names)
            else:
                panel = build_panel(sets, required, size=config.panel_size)
            model = AidoCell(ArchConfig(128, 6, 4, 320, len(panel), depth=DepthRule(0.0, MINI_FOLD)), panel)
        else:
            model = load_aido(config.start)
        counts, mixture = _counts_over(sets, model.genes), _mixture(sets, model.genes)
        with progress() as bar:
            task = add_task(bar, "pretrain", config.total_steps)

            def report(step: int, row: dict[str, float]) -> None:
                bar.update(task, completed=step, note=f"loss {row['loss']:.4f}")
                log.info("step %d %s", step, {k: round(v, 4) for k, v in row.items() if k != "step"})

            panels = [] if config.panel == "all" else [align(embedded.var_names, model.genes).valid]
            started = config.start is not None
            options: dict[str, Any] = {"panels": panels, "mixture": mixture, "started": started}
            pretrain(model, counts, config, folder, minutes=minutes, report=report, **options)
        # what is trained on from somebody's weights stays under their licence
        licence = OWN_LICENCE if config.start is None else provenance(config.start)["licence"]
        save_model(model, folder, licence=licence)
        for file in folder.glob("*.pt"):  # checkpoint and teachers
            file.unlink()

    inputs = [] if config.start is None else [model_digest(config.start)]
    if config.datasets:
        settings["cells"] = [{n: value for n, value in as_dict(one).items() if n in SPLIT} for one in named(context.config)]
    elif own_cells(context.config):
        settings["cells"] = {name: value for name, value in as_dict(context.config.dataset).items() if name in SPLIT}
    inputs += [file_digest(Path(path)) for path in _files(context.config)]
    return built(context, "pretrain", build, version=VERSION, reads=settings, inputs=inputs)
