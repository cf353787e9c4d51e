"""Embeddings, features and steered cells are what the model and the SAE say of the same cells, asked directly."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp_sparse
import torch

import steerpipe as sp
from steerpipe.config import DatasetConfig
from steerpipe.data.genes import align
from steerpipe.data.split import test_cells as commands_split
from steerpipe.errors import SteerError
from steerpipe.models.preprocess import model_input
from steerpipe.steering.intervene import edit_codes
from steerpipe.store import pins


def asked(model, adata, layer=1):
    """Streams of the valid genes, float32 (N, G_valid, D), the whole streams, and the valid positions."""
    found = align(adata.var_names, model.genes)
    values = model_input(found.apply(adata.X), model.network.arch.depth)
    with torch.no_grad():
        whole = model.network.stream(values, layer)
    valid = torch.from_numpy(np.flatnonzero(found.valid))
    return whole[:, valid], whole, valid


def builds(store, step):
    lines = (store / "builds.jsonl").read_text().splitlines()
    return sum(json.loads(line)["stage"] == step for line in lines)


def same(one, other):
    """Whether an AnnData is as it was: counts, labels and what hangs on it."""
    assert (one.X != other.X).nnz == 0
    pd.testing.assert_frame_equal(one.obs, other.obs)
    assert (list(one.obsm), list(one.uns), list(one.layers)) == (list(other.obsm), list(other.uns), list(other.layers))


def test_embeddings_are_mean_streams(adata, model, store):
    before = adata.copy()
    assert sp.embed(adata, model, layer=1, store=store) is None
    streams, _, valid = asked(model, adata)
    np.testing.assert_allclose(adata.obsm["X_steer"], streams.mean(1), atol=1e-5)
    assert adata.obsm["X_steer"].dtype == np.float32
    about = {"model": model.path, "layer": 1, "genes": len(valid), "model_genes": len(model.genes)}
    assert adata.uns["steer"] == about
    copied = sp.embed(before, model, layer=-2, store=store, copy=True)
    np.testing.assert_array_equal(copied.obsm["X_steer"], adata.obsm["X_steer"])
    assert not before.obsm
    assert "steer" not in before.uns


def test_nothing_runs_twice_for_new_labels_and_other_columns(adata, model, sae, tmp_path):
    sp.embed(adata, model, layer=1, store=tmp_path)
    adata.obs["cluster"] = np.where(adata.obs["kind"] == "T4", "one", "two")
    adata.var["highly_variable"] = True
    first = sp.fit(adata, model, sae, source="T4", target="T8", label="kind", store=tmp_path)
    second = sp.fit(adata, model, sae, source="one", target="two", label="cluster", store=tmp_path)
    assert builds(tmp_path, "extract") == 1
    assert not np.array_equal(first.theta, second.theta)
    adata.obs["cluster"] = np.where(adata.obs["kind"] == "T8", "one", "two")  # the same column, of other cells
    third = sp.fit(adata, model, sae, source="one", target="two", label="cluster", store=tmp_path)
    assert not np.array_equal(third.theta, second.theta)
    adata.X = adata.X * 2
    sp.embed(adata, model, layer=1, store=tmp_path)
    assert builds(tmp_path, "extract") == 2
    assert pins(tmp_path) == {
        path.parent.name for path in tmp_path.glob("*/*/artefact.json")
    }  # what `steer clean` leaves alone


def test_a_backed_file_and_a_layer_give_the_same(adata, model, store, tmp_path):
    sp.embed(adata, model, layer=1, store=store)
    adata.copy().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    del backed.obsm["X_steer"]
    sp.embed(backed, model, layer=1, store=tmp_path / "store")
    assert backed.isbacked
    np.testing.assert_allclose(backed.obsm["X_steer"], adata.obsm["X_steer"], atol=1e-6)
    assert not sp.embed(backed, model, layer=1, store=tmp_path / "store", copy=True).isbacked
    backed.file.close()
    normal = adata.copy()
    normal.layers["counts"] = normal.X.copy()
    sc.pp.normalize_total(normal, target_sum=1e4)
    sc.pp.log1p(normal)
    again = sp.embed(normal, model, layer=1, counts="counts", store=store, copy=True)
    np.testing.assert_array_equal(again.obsm["X_steer"], adata.obsm["X_steer"])


def test_features_are_mean_codes(adata, model, sae, store):
    before = adata.copy()
    found = sp.features(adata, model, sae, store=store)
    same(adata, before)
    streams, _, _ = asked(model, adata)
    with torch.no_grad():
        dense = sae.network.encode(streams.half().float()).dense(sae.n_features)
    np.testing.assert_allclose(found.X, dense.abs().mean(1), atol=2e-3)
    np.testing.assert_allclose(found.layers["signed"], dense.mean(1), atol=2e-3)
    assert found.X.dtype == found.layers["signed"].dtype == np.float32
    assert found.shape == (120, sae.n_features)
    assert list(found.obs["kind"]) == list(adata.obs["kind"])
    sc.tl.rank_genes_groups(found, "kind", method="t-test")
    assert len(sc.get.rank_genes_groups_df(found, "T8"))


def test_features_have_their_annotation(adata, model, sae, store):
    found = sp.features(adata, model, sae, annotate=True, label="kind", store=store)
    assert {"label", "cell_types"} <= set(found.var.columns)
    assert list(found.var_names) == [str(i) for i in range(sae.n_features)]
    assert adata.obs["steer_test"].sum() == 36
    found.write_h5ad(store / "features.h5ad")  # every column can be written
    assert found.var["cell_types"].str.contains("T8").any()
    adata.obs["kind"] = adata.obs["kind"].replace({"T8": "renamed"})  # the split stays: labels alone tell the two apart
    again = sp.features(adata, model, sae, annotate=True, label="kind", store=store).var["cell_types"]
    assert again.str.contains("renamed").any()
    assert not again.str.contains("T8").any()


def test_steered_cells_are_the_edited_model(adata, model, sae, recipe, store):
    some = adata[adata.obs["kind"] == "T4"][:7]
    before = some.copy()
    found = sp.steer(some, model, sae, recipe, store=store)
    same(some, before)
    streams, whole, valid = asked(model, some.copy())
    assert np.count_nonzero(recipe.theta)
    with torch.no_grad():
        theta = torch.from_numpy(recipe.theta).float()
        edited = whole.index_add(1, valid, edit_codes(sae.network, sae.network.encode(streams), theta))
        for name, stream in (("before", whole), ("after", edited)):
            said = model.network.forward_from(1, stream, valid)
            np.testing.assert_allclose(found.layers[name], said.expression, atol=1e-4)
            np.testing.assert_allclose(found.obsm[f"X_steer_{name}"], stream[:, valid].mean(1), atol=1e-5)
            np.testing.assert_allclose(found.obsm[f"X_final_{name}"], said.final.mean(1), atol=1e-4)
    assert np.abs(found.layers["after"] - found.layers["before"]).max() > 1e-3
    assert list(found.var_names) == [model.genes[i] for i in valid]
    assert list(found.obs_names) == list(some.obs_names)
    np.testing.assert_array_equal(found.X, found.layers["after"])


def test_test_cells_are_those_of_the_commands_and_stay(adata, model, store):
    sp.hold_out(adata, label="kind", batch="donor", share=0.25, seed=3)
    theirs = commands_split(adata.obs, DatasetConfig(label="kind", batch="donor", test_share=0.25, split_seed=3))
    np.testing.assert_array_equal(adata.obs["steer_test"], theirs)
    sp.train_sae(adata, model, layer=1, store=store, expansion=1, k=2, tokens=4096)  # no label: the marks are there
    np.testing.assert_array_equal(adata.obs["steer_test"], theirs)
    copied = sp.hold_out(adata, copy=True)
    assert copied.obs["steer_test"].sum() == 36
    np.testing.assert_array_equal(adata.obs["steer_test"], theirs)


def test_no_test_cell_is_trained_on(adata, model, tmp_path):
    sp.hold_out(adata, label="kind")
    other = adata.copy()
    rows = np.flatnonzero(other.obs["steer_test"])
    dense = other.X.toarray()
    dense[rows] = dense[np.roll(rows, 1)][:, ::-1]
    other.X = sp_sparse.csr_matrix(dense)
    options = {"layer": 1, "expansion": 1, "k": 2, "tokens": 4096, "store": tmp_path}
    one, two = (sp.train_sae(some, model, **options) for some in (adata, other))
    assert builds(tmp_path, "train-sae") == 2
    assert one.digest == two.digest
    assert one.scores["sae_held/fvu"] != two.scores["sae_held/fvu"]


def test_what_is_saved_is_what_is_loaded(adata, model, sae, recipe, store, tmp_path):
    again = sp.load_recipe(recipe.save(tmp_path / "recipe"))
    np.testing.assert_array_equal(again.theta, recipe.theta)
    pd.testing.assert_frame_equal(again.features, recipe.features)
    same_fields = ("objective", "settings", "contrast", "lam", "label", "layer", "dictionary", "seed", "info")
    assert all(getattr(again, name) == getattr(recipe, name) for name in same_fields)
    loaded = sp.load_sae(sae.save(tmp_path / "sae"))
    assert (loaded.layer, loaded.digest, loaded.network.k) == (1, sae.digest, sae.network.k)
    some = adata[:5]
    one, two = (sp.steer(some, model, *pair, store=store) for pair in ((sae, recipe), (loaded, again)))
    np.testing.assert_allclose(one.layers["after"], two.layers["after"], atol=1e-5)


def test_a_recipe_of_another_dictionary_is_refused(adata, model, sae, recipe, store):
    other = sp.train_sae(adata, model, layer=1, seed=1, store=store, expansion=4, k=8, tokens=4096)
    for call in (sp.steer, sp.evaluate):
        with pytest.raises(SteerError, match="the recipe is of another dictionary"):
            call(adata, model, other, recipe, store=store)
