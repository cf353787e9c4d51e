"""`sae.centre=gene` from training to steering, on a tiny model; and that it is off unless it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from steerpipe.cli.hydra import compose
from steerpipe.errors import SteerError
from steerpipe.pipeline import annotation as annotate
from steerpipe.pipeline.activations import activations
from steerpipe.pipeline.baseline_dictionaries import baselines
from steerpipe.pipeline.dictionary import VERSION, dictionary
from steerpipe.pipeline.dictionary_scores import compare
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.problems import model_objective
from steerpipe.pipeline.scoring import scorer
from steerpipe.plot.provenance import sae_phrase
from steerpipe.run import Run
from steerpipe.steering.intervene import apply, recipe_edit
from steerpipe.store import Store, content_key

from ..made import Made

CENTRED = "sae.centre=gene"


@pytest.fixture(scope="module")
def context(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("centred")

    def make(*overrides, store="store"):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=150"]
        run = Run(folder / f"run{len(list(folder.glob('run*')))}", "test", {})
        run.path.mkdir()
        small = ["sae.tokens=20000", "annotate.min_size=3", "annotate.n_random=2", "extract.dtype=float32"]
        return Made(compose(*words, *small, *overrides), Store(folder / store), run=run)

    return make


def made(context):
    source = activations(context)
    return source, dictionary(context, source)


def test_without_it_keys_and_files_are_what_they_were(context):
    source, found = made(context())
    settings = {
        "expansion": 4, "k": 8, "selection": "topk", "activation": "identity", "b_pre": True, "unit_norm": True,
        "auxk_weight": 1 / 32, "dead_after": 50_000, "lr": 5e-3, "decay": "linear", "clip": 1.0, "batch_size": 2048,
        "tokens": 20_000, "seed": 0,
    }  # fmt: skip
    key = content_key("train-sae", VERSION, {**settings, "layer": 1, "test": source.split_key}, [source.artefact.key])
    assert found.artefact.key == key
    cfg = json.loads((found.artefact.path / "cfg.json").read_text())
    assert cfg["architecture"] == "topk"
    assert list(cfg["metadata"]["steerpipe"].items()) == [("path", None), *settings.items()]
    assert not found.sae.gene_centred
    files = {file.name for file in found.artefact.path.iterdir()}
    assert files == {"artefact.json", "cfg.json", "curve.jsonl", "features.csv", "sae_weights.safetensors", "scores.json"}


def test_means_are_of_the_fit_alone(context):
    source, found = made(context(CENTRED))
    sae = found.sae
    assert sae.genes == tuple(source.genes)
    x = np.stack(source.tokens.cells(source.fit))
    offset = sae.b_pre.numpy() - x.mean(0)
    np.testing.assert_allclose(offset, np.tile(offset[0], (len(offset), 1)), atol=1e-5)  # one centre of the deviations
    whole = np.stack(source.tokens.cells(np.arange(source.tokens.n_cells))).mean(0)
    assert np.abs(whole - x.mean(0)).max() > 1e-3
    every, _ = made(context())
    assert found.artefact.key != dictionary(context(), every).artefact.key
    assert sae_phrase(context(CENTRED).config).endswith(", gene-centred")


def test_the_comparison_has_one_denominator_and_centred_baselines(context):
    given = context(CENTRED)
    source, found = made(given)
    table = compare(given, source, found).table.set_index("dictionary")
    assert np.isfinite(table[["fvu", "fidelity_loss"]].to_numpy()).all()
    x = torch.from_numpy(np.stack(source.tokens.cells(source.test)))
    total = (x - x.mean((0, 1))).square().sum()
    _, fitted = baselines(given, source, found)
    for name, one in (("SAE", found.sae), ("first 8 PCs", fitted.pca.first(8)), ("random SAE", fitted.random)):
        error = (one.decode(one.encode(x)) - x).square().sum()
        assert table.loc[name, "fvu"] == pytest.approx(float(error / total), rel=1e-3)
    plain = context()
    others = compare(plain, *made(plain)).table.set_index("dictionary")
    assert table.loc["first 8 PCs", "fvu"] < others.loc["first 8 PCs", "fvu"]


@pytest.mark.parametrize("tokens", ["genes", "[CD3D,NKG7,LYZ]"])
def test_steering_scales_the_codes_of_the_deviation(context, tokens):
    experiment = prepare(context(CENTRED, f"objective.tokens={tokens}"))
    cached, sae = experiment.cached, experiment.sae
    genes = [gene for gene in experiment.genes if tokens == "genes" or gene in tokens]
    whole = experiment.dictionary.sae
    means = whole.b_pre[[whole.genes.index(gene) for gene in genes]]
    position = {gene: i for i, gene in enumerate(cached.model.genes)}
    places = torch.tensor([position[gene] for gene in genes])
    rows = np.arange(5)
    (batch,) = cached.batches(rows, 5)
    stream = batch.stream
    x = stream[:, places]
    pre = (x - means) @ whole.W_enc + whole.b_enc
    top = pre.topk(whole.k)
    z = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
    theta = torch.from_numpy(np.random.default_rng(0).normal(0, 1, whole.n_features).astype(np.float32))
    wanted = stream.index_add(1, places, (theta * z) @ whole.W_dec)
    steered = apply(stream, cached.tokens, recipe_edit(sae, theta)(stream[:, cached.tokens]))
    torch.testing.assert_close(steered, wanted, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(experiment.zbar[rows], z.sum(1) / len(cached.valid), atol=1e-5)
    # through the model: what the fit's objective sees, and what is scored
    objective = model_objective(experiment, context("objective=expression").config.objective)
    assert np.isfinite(objective.value_and_gradient(theta.double().numpy())[0])
    how = scorer(experiment)
    moved = how.recipe(theta.numpy(), "multiply").layer - how.base.layer
    np.testing.assert_allclose(moved, (theta.numpy() * experiment.zbar[how.rows]) @ whole.W_dec.numpy(), atol=1e-3)


def test_tokens_without_a_mean_are_not_steered(context):
    with pytest.raises(SteerError, match=r"objective.tokens=genes, or sae.centre=none"):
        prepare(context(CENTRED, "objective.tokens=all"))


def test_annotation_reads_each_token_at_its_gene(context):
    given = context(CENTRED, "extract.tokens=sample", "extract.n_tokens=50")
    source, found = made(given)
    _, where = annotate.activity(given, source, "sae", found.sae, found.artefact)
    sums = np.zeros((found.sae.n_features, len(source.genes)))
    for columns, x in zip(source.tokens.columns(source.fit), source.tokens.cells(source.fit), strict=True):
        codes = found.sae.at(columns).encode(torch.from_numpy(x)).dense(found.sae.n_features)
        sums[:, columns] += codes.abs().numpy().T
    np.testing.assert_allclose(where.sums.sum(0), sums, atol=1e-2, rtol=1e-4)


def test_a_file_is_used_with_the_means_that_it_has(context, tmp_path):
    given = context(CENTRED)
    source, found = made(given)
    other = context("sae=file", f"sae.path={found.artefact.path}")
    _, again = made(other)
    x = torch.from_numpy(np.stack(source.tokens.cells(source.test[:3])))
    torch.testing.assert_close(again.sae(x), found.sae(x))
    assert again.sae.genes == found.sae.genes
    with pytest.raises(SteerError, match=r"objective.tokens=genes"):
        prepare(context("sae=file", f"sae.path={found.artefact.path}", "objective.tokens=all"))
    cfg = json.loads((found.artefact.path / "cfg.json").read_text())
    cfg["metadata"]["genes"][2] = "of another dataset"
    for name in ("sae_weights.safetensors",):
        (tmp_path / name).write_bytes((found.artefact.path / name).read_bytes())
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(
        SteerError, match=f"has no mean for 1 of the dataset's {len(source.genes)} genes \\({source.genes[2]}\\)"
    ):
        made(context("sae=file", f"sae.path={tmp_path}"))
