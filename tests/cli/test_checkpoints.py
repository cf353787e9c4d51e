"""Checkpoints and dictionaries from elsewhere, as typed: hub ids, the encoder alone, licences, imported SAEs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from steerpipe.models.checkpoints import LICENCE, OWN_LICENCE, model_digest
from steerpipe.sae.io import load_sae, save_sae

from ..fake_hub import COMMIT, fake_hub
from ..sae.test_io import published
from ..sae.test_sae import random_sae
from .conftest import small

REPO = "someone/tiny-cell"
LATENT = ["evaluate.objectives=[latent]", "evaluate.n_random=1"]


@pytest.fixture(scope="module")
def encoder(tiny_folder, tmp_path_factory):
    """The tiny checkpoint as a file of the encoder alone, without the `bert.` prefix."""
    folder = tmp_path_factory.mktemp("encoder")
    for name in ("config.json", "genes.txt"):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    state = load_file(tiny_folder / "model.safetensors")
    state = {k.removeprefix("bert."): v for k, v in state.items() if k.startswith("bert.")}
    save_file(state, folder / "model.safetensors")
    return folder


def artefacts(folder):
    return sorted(p.parent.parent.name for p in folder.glob("outputs/.store/*/*/artefact.json"))


def manifest_of(done, folder):
    return json.loads((folder / done.stdout.strip().splitlines()[-1] / "manifest.json").read_text())


def on(folder, *words):
    """A small run of a checkpoint."""
    return [w if w != "model.path" else f"model.path={folder}" for w in small(*words)]


@pytest.mark.parametrize(
    ("words", "repair"),
    [
        (["run"], "add evaluate.objectives=[latent]"),
        (["plot", "evaluate.objectives=[expression]"], "add evaluate.objectives=[latent]"),
        (["fit", "objective=expression"], "add objective=latent"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_an_encoder_alone_refuses_expression_before_anything_is_computed(steer, encoder, tmp_path, words, repair):
    done = steer(*on(encoder, *words), ok=False, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if "has no expression head" in line]
    assert len(lines) == 1
    assert repair in lines[0]
    assert "Traceback" not in done.stderr
    assert not artefacts(tmp_path)
    assert not list(tmp_path.glob("outputs/.store/*/*.partial"))


def test_an_encoder_alone_runs_to_the_end_in_the_latent_geometry(steer, encoder, tmp_path):
    done = steer(*on(encoder, "run", *LATENT), cwd=tmp_path)
    assert done.stderr.count("has no expression head: latent objectives only") == 1
    folder = tmp_path / done.stdout.strip().splitlines()[-1]
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores["space"]) == {"layer", "layer_nearest", "final", "final_nearest"}
    assert {"latent", "no-op", "SAE spliced in", "random features, as latent", "split-half floor"} <= set(scores["recipe"])
    recipe = scores[(scores["recipe"] == "latent") & (scores["space"] == "layer") & (scores["score"] == "gap")]
    assert recipe.set_index("split").loc["fit", "value"] > 0
    genes = pd.read_csv(folder / "genes.csv")
    assert len(genes) == 0
    assert {"gene", "gap_fraction", "recipe"} <= set(genes.columns)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert not [name for name in metrics if "/de_" in name]
    assert "latent/layer_edistance" in metrics
    for name in ("mirror_boxplot", "before_after", "sparsity", "feature_counts"):
        for suffix in ("png", "svg", "csv"):
            assert (folder / "plots" / f"{name}.{suffix}").stat().st_size > 100
    assert "predicted expression" not in (folder / "plots" / "mirror_boxplot.svg").read_text()
    store = tmp_path / "outputs" / ".store"
    assert not list(store.glob("extract/*/expression.npy"))
    before = artefacts(tmp_path)
    steer(*on(encoder, "plot", "reuse=only", *LATENT), cwd=tmp_path)
    assert artefacts(tmp_path) == before


def test_the_licence_is_shown_once_and_kept_in_every_manifest(steer, tiny_folder, encoder, tmp_path):
    first = steer(*on(tiny_folder, "extract"), cwd=tmp_path)
    second = steer(*on(tiny_folder, "extract"), cwd=tmp_path)
    assert first.stderr.count(LICENCE) == 1
    assert LICENCE not in second.stderr
    for done in (first, second):
        kept = manifest_of(done, tmp_path)["licence"]
        assert kept == {
            "model": str(tiny_folder),
            "revision": None,
            "commit": None,
            "licence": LICENCE,
            "digest": model_digest(tiny_folder),
        }
    (record,) = tmp_path.glob("outputs/.store/extract/*/model.json")  # activations travel with their licence
    assert json.loads(record.read_text())["licence"] == LICENCE
    assert list(json.loads((tmp_path / "outputs/.store/licences.json").read_text())) == [model_digest(tiny_folder)]
    other = steer(*on(encoder, "extract"), cwd=tmp_path)  # another checkpoint, another outputs folder: shown again
    assert other.stderr.count(LICENCE) == 1
    assert len(json.loads((tmp_path / "outputs/.store/licences.json").read_text())) == 2


def test_our_own_models_name_their_own_licence(steer, tiny_folder, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in tiny_folder.iterdir():
        (mine / file.name).write_bytes(file.read_bytes())
    settings = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps(settings | {"licence": OWN_LICENCE}))
    done = steer(*on(mine, "extract"), cwd=tmp_path)
    assert f"licence of {mine}: {OWN_LICENCE}" in done.stderr
    assert "non-commercial" not in done.stderr
    assert manifest_of(done, tmp_path)["licence"]["licence"] == OWN_LICENCE


def test_a_model_by_hub_id(steer, tiny_folder, tmp_path):
    words = on(REPO, "extract", "model.revision=main")
    env = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    with fake_hub(REPO, tiny_folder) as (endpoint, _):
        # a hub model has no genes.txt, hence 19,264 genes: too many for a test, so this one brings its list along
        done = steer(*words, ok=False, cwd=tmp_path, HF_ENDPOINT=endpoint, **env)
        assert f"19264 genes for {len((tiny_folder / 'genes.txt').read_text().split())} positions" in done.stderr
    (snapshot,) = (tmp_path / "home").glob(f"hub/*/snapshots/{COMMIT}")
    (snapshot / "genes.txt").write_bytes((tiny_folder / "genes.txt").read_bytes())
    done = steer(*words, cwd=tmp_path, HF_HUB_OFFLINE="1", **env)
    kept = manifest_of(done, tmp_path)["licence"]
    assert (kept["model"], kept["revision"], kept["commit"]) == (REPO, "main", COMMIT)
    # the run that failed left a .partial behind
    (record,) = (p for p in tmp_path.glob("outputs/.store/extract/*/model.json") if p.parent.suffix != ".partial")
    assert json.loads(record.read_text())["commit"] == COMMIT
    # the same weights in a folder are the same model
    steer(*on(tiny_folder, "extract", "reuse=only"), cwd=tmp_path)


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory):
    """A published SAE of the tiny model's width."""
    return published(tmp_path_factory.mktemp("sae") / "topk_sae.pt", width=32, expansion=4, k=6)


def test_an_imported_dictionary_is_scored_and_steered_with(steer, dictionary, workdir):
    words = ["sae=file", f"sae.path={dictionary}"]
    done = steer(*small("train-sae"), *words)
    folder = workdir / done.stdout.strip().splitlines()[-1]
    assert f"imported {dictionary}" in done.stderr
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["sae_held/l0"] == pytest.approx(6)
    assert metrics["sae_held/fvu"] > 0
    assert len(pd.read_csv(folder / "features.csv")) == 128
    assert not (folder / "metrics.jsonl").exists()  # nothing was trained
    (stored,) = workdir.glob("outputs/.store/train-sae/*/cfg.json")
    cfg = json.loads(stored.read_text())
    assert (cfg["d_in"], cfg["d_sae"], cfg["k"]) == (32, 128, 6)
    assert cfg["metadata"]["imported"]["path"] == str(dictionary)
    done = steer(*small("fit"), *words)
    assert Counter(artefacts(workdir))["train-sae"] == 1
    recipe = pd.read_csv(workdir / done.stdout.strip().splitlines()[-1] / "recipe.csv")
    assert len(recipe) > 0
    assert recipe["feature"].max() < 128


def test_another_file_is_another_dictionary_and_where_it_lies_is_not(steer, dictionary, workdir, tmp_path):
    steer(*small("train-sae"), "sae=file", f"sae.path={dictionary}")
    before = Counter(artefacts(workdir))
    same = tmp_path / "folder" / "topk_sae.pt"
    same.parent.mkdir()
    same.write_bytes(dictionary.read_bytes())
    steer(*small("train-sae"), "sae=file", f"sae.path={same.parent}", "sae.lr=1")
    assert Counter(artefacts(workdir)) == before
    other = published(tmp_path / "other.pt", width=32, expansion=2, k=3, seed=9)
    steer(*small("train-sae"), "sae=file", f"sae.path={other}")
    folder = tmp_path / "saelens"
    save_sae(random_sae(d=32, f=50, k=4), folder, {})
    steer(*small("train-sae"), "sae=file", f"sae.path={folder}")
    assert Counter(artefacts(workdir)) == before + Counter({"train-sae": 2, "score": 2, "baselines": 2})
    sizes = {load_sae(p.parent).n_features for p in workdir.glob("outputs/.store/train-sae/*/cfg.json")}
    assert sizes == {128, 64, 50}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide.pt", "is of width 16, but"),
        ("nowhere.pt", "no SAE in"),
        ("decoder.pt", "lacks model_state_dict, expansion, k"),
    ],
)
def test_a_dictionary_that_does_not_fit_ends_with_one_line(steer, tmp_path, name, message):
    published(tmp_path / "wide.pt", width=16, expansion=4, k=6)
    torch.save({"weight": torch.ones(3, 3)}, tmp_path / "decoder.pt")
    for command in ("train-sae", "fit"):
        done = steer(*small(command), "sae=file", f"sae.path={tmp_path / name}", ok=False, cwd=tmp_path)
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not artefacts(tmp_path)


def test_sae_file_needs_a_file(steer, tmp_path):
    done = steer("fit", "sae=file", ok=False, cwd=tmp_path)
    assert "sae.path is needed: add sae.path=topk_sae.pt" in done.stderr
    assert not Path(tmp_path / "outputs" / ".store").exists()
