"""`steer pretrain`: train the embedded model, then score it on data that it never saw."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from ..config import DatasetConfig, as_dict
from ..data import datasets
from ..data.genes import align, gene_list
from ..models.aido_cell import AidoCell, ArchConfig
from ..models.checkpoints import save_model
from ..models.panel import build_panel
from ..models.preprocess import DepthRule
from ..models.pretrain import pretrain
from ..progress import add_task, progress
from ..store import Artefact
from .common import Context

log = logging.getLogger(__name__)
VERSION = 1
MINI_FOLD = 4.0
"""`mini` is asked for a profile four times deeper than the cell: the middle of what it was trained on."""


def main(context: Context) -> None:
    """Train, and report the curve and the scores."""
    artefact = trained(context)
    rows = [json.loads(line) for line in (artefact.path / "curve.jsonl").read_text().splitlines()]
    context.run.curve(rows)
    context.run.metrics({f"pretrain/{k}": v for k, v in rows[-1].items()})
    log.info("model: %s (use it with model=local model.path=%s)", artefact.path, artefact.path)


def trained(context: Context) -> Artefact:
    """Return the artefact of the trained model: config.json, genes.txt, model.safetensors, curve.jsonl."""
    config = context.config.pretrain
    settings = as_dict(config)
    minutes = settings.pop("minutes")

    def build(folder: Path) -> None:
        adata = datasets.load(DatasetConfig(name=config.dataset))
        embedded = datasets.pbmc68k_reduced()
        required = [gene for gene in embedded.var_names if gene in set(gene_list())]
        panel = build_panel(adata, required, size=config.panel_size)
        counts = align(adata.var_names, panel).apply(adata.X).toarray().astype(np.uint16)
        arch = ArchConfig(128, 6, 4, 320, len(panel), depth=DepthRule(0.0, MINI_FOLD))
        model = AidoCell(arch, panel)
        with progress() as bar:
            task = add_task(bar, "pretrain", config.steps)

            def report(step: int, row: dict[str, float]) -> None:
                bar.update(task, completed=step, note=f"loss {row['loss']:.4f}")
                log.info("step %d %s", step, {k: round(v, 4) for k, v in row.items() if k != "step"})

            small = align(embedded.var_names, panel).valid
            pretrain(model, counts, config, folder, panels=[small], minutes=minutes, report=report)
        save_model(model, folder)
        (folder / "checkpoint.pt").unlink()

    return context.store.get("pretrain", version=VERSION, config=settings, build=build)
