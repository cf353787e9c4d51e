"""Shared fixtures: a tiny model with random weights, and the real cells that scanpy ships."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from steerpipe.data import datasets
from steerpipe.data.genes import gene_list
from steerpipe.models.aido_cell import AidoCell, ArchConfig
from steerpipe.models.checkpoints import save_model
from steerpipe.models.preprocess import DepthRule

from . import THREADS

torch.set_num_threads(THREADS)


def pytest_collection_modifyitems(items):
    have = (datasets.data_dir() / "pbmc3k.h5ad").is_file()
    for item in items:
        if item.get_closest_marker("data") and not have:
            item.add_marker(pytest.mark.skip(reason="set STEER_DATA to the folder of real data"))


def random_model(genes, *, seed=0, width=32, layers=3, heads=2, inner=48, depth=DepthRule(0.0, 2.0)):
    """An AIDO.Cell whose every parameter is random, LayerNorms and biases too."""
    model = AidoCell(ArchConfig(width, layers, heads, inner, len(genes), depth=depth), genes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.5 if "gene_embedding" in name else 0.15
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if name.endswith("ln.weight") or name.endswith("LayerNorm.weight"):
                p.add_(1.0)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def cells():
    """The 700 embedded PBMCs."""
    return datasets.pbmc68k_reduced()


@pytest.fixture(scope="session")
def tiny_genes(cells):
    """200 genes that the embedded cells have and 40 that they lack, in the list's order."""
    have = set(cells.var_names)
    there = [gene for gene in gene_list() if gene in have]
    missing = [gene for gene in gene_list() if gene not in have]
    markers = {"CD8A", "CD8B", "CD4", "GZMB", "NKG7", "IL7R", "CCR7", "LYZ", "CD3D"}
    chosen = {*there[::4], *(markers & have), *missing[:40]}
    return [gene for gene in gene_list() if gene in chosen]


@pytest.fixture(scope="session")
def tiny_model(tiny_genes):
    return random_model(tiny_genes)


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tmp_path_factory) -> Path:
    """The tiny model as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("tiny")
    save_model(tiny_model, folder, dtype=torch.float32)
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    os.environ.setdefault("NO_COLOR", "1")
