"""Extraction as a stage: its plan, its parts, online training, backed files and the model's options."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch

from steerpipe.activations import plan as plan_module
from steerpipe.cli.hydra import compose
from steerpipe.commands import check_approximation, extract
from steerpipe.data.cells import CellSource
from steerpipe.data.matrices import on_disk
from steerpipe.errors import SteerError
from steerpipe.models.preprocess import MASK, model_input
from steerpipe.pipeline import approximation
from steerpipe.pipeline.activations import activations, extract_part, load_cells, load_steered_model, plan
from steerpipe.pipeline.dictionary import dictionary
from steerpipe.pipeline.experiment import prepare
from steerpipe.run import Run
from steerpipe.store import Store

from ..made import Made


@pytest.fixture
def context(tiny_folder, tmp_path):
    def make(*overrides, outputs=tmp_path):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=60", *overrides]
        run = Run(outputs / "run", "test", {})
        run.path.mkdir(parents=True, exist_ok=True)
        return Made(compose(*words), Store(outputs / "store"), run=run)

    return make


def test_the_plan_is_what_extraction_then_writes(context, capsys):
    for words in ([], ["extract.tokens=sample", "extract.n_tokens=50", "extract.layers=[0]"]):
        made = context(*words)
        planned = plan(made)
        found = activations(made)
        files = list(found.artefact.path.rglob("streams_*.npy"))
        assert sum(np.load(f, mmap_mode="r").nbytes for f in files) == planned.bytes
        assert found.tokens.n_tokens(np.arange(60)) == planned.tokens
        assert planned.seconds > 0
        assert str(found.tokens.policy) == planned.policy
    made = context("extract.plan=true")
    extract.main(made, made.run)
    assert "GB for 1 layer(s)" in capsys.readouterr().out


def test_flops_of_the_published_sizes():
    """The totals of spec section 5 at 19,266 tokens: blocks, with the head's share left out."""
    from steerpipe.models.aido_cell import ArchConfig

    small, large = ArchConfig(128, 6, 4, 320, 19264), ArchConfig(640, 18, 20, 1664, 19264)
    assert plan_module.forward_flops(small, 19266, 6) == pytest.approx(1.19e12, rel=0.02)
    assert plan_module.forward_flops(large, 19266, 18) == pytest.approx(20.5e12, rel=0.02)


def test_a_disk_that_is_too_small_is_refused_before_anything_runs(context, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(SteerError, match=r"GB free; set extract.tokens=sample .*activations=online"):
        activations(context())


def test_online_training_stores_no_activations_and_gives_the_same_dictionary(context, tmp_path):
    words = ["extract.dtype=float32", "extract.tokens=sample", "extract.n_tokens=40", "sae.tokens=40000", "sae.batch_size=500"]
    stored_context = context(*words, outputs=tmp_path / "stored")
    stored = dictionary(stored_context, activations(stored_context))
    online_context = context(*words, "activations=online", outputs=tmp_path / "online")
    online = dictionary(online_context, activations(online_context))
    assert not list((tmp_path / "online").rglob("streams_*.npy"))
    assert list((tmp_path / "stored").rglob("streams_*.npy"))
    for name in ("sae_held/fvu", "sae_train/fvu", "sae_held/l0"):
        assert online.scores[name] == pytest.approx(stored.scores[name], rel=0.01)
    cosine = torch.cosine_similarity(stored.sae.W_dec, online.sae.W_dec, dim=1)
    assert cosine.median() > 0.999


def test_parts_are_joined_by_the_plain_command(context, tmp_path):
    words = ["extract.shard_tokens=1500", "extract.parts=2"]
    for part in (1, 0):
        extract_part(context(*words, f"extract.part={part}", outputs=tmp_path / "parts"))
    joined = activations(context("extract.shard_tokens=1500", outputs=tmp_path / "parts"))
    whole = activations(context("extract.shard_tokens=1500", outputs=tmp_path / "whole"))
    assert joined.artefact.key == whole.artefact.key

    def files(path):
        return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*.npy")}

    assert files(joined.artefact.path) == files(whole.artefact.path)
    assert sum(name.startswith("layer_01/streams") for name in files(whole.artefact.path)) > 5
    with pytest.raises(SteerError, match=r"extract.part=2 must lie between 0 and extract.parts-1=1"):
        context("extract.parts=2", "extract.part=2")


def test_another_layer_of_the_same_pass_is_reused(context, tmp_path):
    first = activations(context("extract.layers=[0,2]"))
    again = activations(context("layer=2", "extract.layers=[0,1]"))
    assert again.artefact.key == first.artefact.key
    assert again.artefact.reused
    cells = np.arange(3)
    assert not np.allclose(first.tokens.cells(cells)[0], again.tokens.cells(cells)[0])
    words = ["extract.layers=[0,2]", "sae.tokens=20000", "sae.batch_size=500", "dataset.max_cells=150"]
    low, high = (prepare(context(*words, f"layer={layer}")) for layer in (0, 2))
    assert low.activations.artefact.key == high.activations.artefact.key
    assert low.dictionary.artefact.key != high.dictionary.artefact.key
    assert low.streams.key != high.streams.key
    with pytest.raises(SteerError, match=r"extract.layers=7 does not exist: the model has blocks 0 to 2"):
        activations(context("extract.layers=[7]"))


def test_a_file_stays_on_disk_and_reads_as_in_memory(cells, tiny_genes, tmp_path):
    file = tmp_path / "cells.h5ad"
    cells.write_h5ad(file)
    config = compose("dataset=h5ad", f"dataset.path={file}", "dataset.label=bulk_labels", "model=mini").dataset
    from steerpipe.data import datasets

    adata = datasets.load(config)
    assert on_disk(adata.X)
    source, memory = CellSource(adata, tiny_genes, config), CellSource(cells, tiny_genes, config)
    for rows in (slice(10, 20), np.array([3, 8, 600])):
        assert (source[rows] != memory[rows]).nnz == 0
    assert source.shape == memory.shape == (700, len(tiny_genes))
    some = datasets.load(compose("dataset=h5ad", f"dataset.path={file}", "dataset.max_cells=50", "model=mini").dataset)
    assert not on_disk(some.X)
    assert some.n_obs == 50


def test_genes_found_by_ensembl_id_are_listed(cells, tiny_genes):
    config = compose("model=mini").dataset
    odd = cells[:30].copy()
    names, ids = odd.var_names.tolist(), [""] * odd.n_vars
    at = names.index("LYZ")
    names[at], ids[at] = "my own name", "ENSG00000090382.7"
    odd.var_names, odd.var["gene_ids"] = names, ids
    source = CellSource(odd, tiny_genes, config)
    row = source.table.set_index("column").loc["my own name"]
    assert (row["gene"], row["how"], row["copies"]) == ("LYZ", "ensembl", 1)
    plain = CellSource(cells[:30], tiny_genes, config)
    assert (source[:] != plain[:]).nnz == 0


def test_duplicates_are_summed_or_refused(cells, tiny_genes):
    double = cells[:30].copy()
    names = double.var_names.tolist()
    names[names.index("CD4")] = "LYZ"
    double.var_names = names
    summed = CellSource(double, tiny_genes, compose("model=mini").dataset)
    assert (summed.table.set_index("gene").loc["LYZ", "copies"] == 2).all()
    with pytest.raises(SteerError, match=r"1 genes have several columns \(LYZ\).*dataset.duplicates=sum"):
        CellSource(double, tiny_genes, compose("model=mini", "dataset.duplicates=refuse").dataset)


def test_depth_target_is_asked_for_and_part_of_the_key(context):
    plain, deep = context(), context("model.depth_target=20000")
    rule = load_steered_model(deep.config).arch.depth
    tokens = rule.tokens(torch.tensor([1000.0, 50.0]))
    torch.testing.assert_close(tokens, torch.tensor([[20000.0, 1000.0], [20000.0, 50.0]]).log10())
    a, b = activations(plain), activations(deep)
    assert a.artefact.key != b.artefact.key
    assert np.abs(a.tokens.cells(np.arange(1))[0] - b.tokens.cells(np.arange(1))[0]).max() > 1e-3


def test_the_masked_readout_predicts_each_gene_with_its_group_hidden(context):
    made = context("model.readout=masked", "model.masked_share=0.34", "dataset.max_cells=150")
    experiment = prepare(made)
    model = load_steered_model(made.config)
    cells = load_cells(made.config, model.genes)
    some = np.sort(experiment.split.source_fit[:2])
    valid = torch.from_numpy(cells.valid)
    assert len(experiment.cached.masked) == 3
    for readout in experiment.cached.masked:
        values = model_input(cells[some], model.arch.depth)
        values[:, valid[readout.columns]] = MASK
        wanted = model(values).expression[:, valid[readout.columns]]
        np.testing.assert_allclose(experiment.expression[some][:, readout.columns], wanted, atol=1e-4)
    plain = prepare(context("dataset.max_cells=150"))
    assert plain.streams.key != experiment.streams.key
    assert np.abs(plain.expression[some] - experiment.expression[some]).max() > 0.01
    np.testing.assert_array_equal(plain.layer[some], experiment.layer[some])


def test_contrast_cells_are_capped(context):
    split = prepare(context("model.contrast_cells=14", "dataset.max_cells=150")).split
    assert len(split.source) == len(split.target) == 14
    assert len(prepare(context("dataset.max_cells=150")).split.target) > 14


def test_steering_refuses_the_subset_of_genes(context):
    with pytest.raises(SteerError, match=r"use model.tokens=all \(expressed is for extract and train-sae\)"):
        prepare(context("model.tokens=expressed"))
    found = activations(context("model.tokens=expressed"))
    assert str(found.tokens.policy) == "expressed"
    with pytest.raises(SteerError, match=r"extract.tokens=valid needs tokens that model.tokens=expressed never runs"):
        activations(context("model.tokens=expressed", "extract.tokens=valid"))


def test_the_approximation_is_measured_and_nothing_is_lost_when_every_gene_runs(context, monkeypatch, capsys):
    table = approximation.deviations(context("extract.check_cells=3"))
    assert len(table) == 3
    assert (table["stream_error"] > 0.001).all()
    assert (table["expression_max"] > 0.001).all()

    def every_gene(model, counts, valid, layers):
        streams = model.streams(model_input(counts, model.arch.depth), layers)
        read = torch.from_numpy(np.concatenate([valid, [model.n_genes, model.n_genes + 1]]))
        return np.arange(len(valid)), {layer: stream[:, read] for layer, stream in streams.items()}

    monkeypatch.setattr(approximation, "expressed_streams", every_gene)
    made = context("extract.check_cells=3")
    check_approximation.main(made, made.run)
    assert "stream_error" in capsys.readouterr().out
    table = pd.read_csv(made.run.path / "approximation.csv")
    assert (table["stream_error"] < 1e-6).all()
    assert (table["embedding_error"] < 1e-6).all()
    assert json.loads((made.run.path / "metrics.json").read_text())["approximation/stream_cosine"] == pytest.approx(1)
