"""Labelled cells, a tiny model, and what commands and calls make of them with the same settings."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import steerpipe as sp

from ..made import called

SAE = {"expansion": 4, "k": 8, "tokens": 20_000}
SCORED = {"n_permutations": 3, "n_permutations_model": 1, "n_random": 1, "n_bootstrap": 20, "max_cells": 20}


@pytest.fixture(scope="session")
def labelled(cells):
    """120 cells of three kinds, with raw counts."""
    label = cells.obs["bulk_labels"]
    kind = np.where(label.str.startswith("CD4"), "T4", np.where(label.str.startswith("CD8"), "T8", "other"))
    rows = np.sort(np.concatenate([np.flatnonzero(kind == one)[:40] for one in ("T4", "T8", "other")]))
    obs = pd.DataFrame({"kind": kind[rows], "donor": np.array(["a", "b"])[rows % 2]}, index=cells.obs_names[rows])
    return anndata.AnnData(cells.X[rows].copy(), obs=obs, var=cells.var.copy())


@pytest.fixture
def adata(labelled):
    return labelled.copy()


@pytest.fixture(scope="session")
def model(tiny_folder):
    return sp.load_model(tiny_folder)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("api") / "store"


@pytest.fixture(scope="session")
def sae(labelled, model, store):
    return sp.train_sae(labelled.copy(), model, layer=1, label="kind", store=store, **SAE)


@pytest.fixture(scope="session")
def recipe(labelled, model, sae, store):
    return sp.fit(labelled.copy(), model, sae, source="T4", target="T8", label="kind", store=store)


def steer(*words):
    """Run a command in this process."""
    assert called(*words) == 0


@pytest.fixture(scope="session")
def commands(labelled, tiny_folder, tmp_path_factory):
    """The folder of runs of `steer fit` and then `steer evaluate` with the settings of the calls."""
    folder = tmp_path_factory.mktemp("commands")
    labelled.write_h5ad(folder / "my.h5ad")
    words = ["dataset=h5ad", f"dataset.path={folder / 'my.h5ad'}", "dataset.label=kind", f"outputs={folder / 'outputs'}"]
    words += [
        "contrast=labels",
        "contrast.source=T4",
        "contrast.target=T8",
        "model=local",
        f"model.path={tiny_folder}",
        "layer=1",
    ]
    words += [f"sae.{name}={value}" for name, value in SAE.items()]
    steer("fit", *words)
    scored = [f"evaluate.{name}={value}" for name, value in SCORED.items()]
    steer("evaluate", *words, *scored, "evaluate.objectives=[latent]", "objective.refit=true")
    return folder / "outputs"
