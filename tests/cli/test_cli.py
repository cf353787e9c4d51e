"""`steer` as typed: real processes for what a user sees, in-process sweeps on a tiny model for what is built."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from .conftest import small


def builds(folder):
    lines = (folder / "outputs" / ".store" / "builds.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["stage"] for line in lines)


def test_help_lists_the_commands_and_groups(steer):
    text = steer("--help").stdout
    for command in (
        "run",
        "extract",
        "train-sae",
        "annotate",
        "feature",
        "features",
        "browse",
        "fit",
        "evaluate",
        "plot",
        "diagnose",
        "transfer",
        "pareto",
        "circuits",
        "check-approximation",
        "pretrain",
        "runs",
        "show",
        "diff",
        "rerun",
        "clean",
        "validate",
        "sweep-table",
        "report",
    ):
        assert command in text
    text = steer("fit", "--help").stdout
    assert "objective=expression|latent" in text
    assert "--multirun" in text


def test_light_commands_wait_for_nothing_heavy():
    heavy = ("torch", "numpy", "pandas", "hydra", "matplotlib", "filelock")
    code = "import sys; import steerpipe.cli.runs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(heavy) & set(loaded)
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text()
    assert "pydantic" not in pinned  # typer 0.29 brings it, and a quarter of a second for every command


def test_config_is_printed_not_run(steer, tmp_path):
    text = steer("fit", "lambda=1e-3", "sae=x16_k32", "--cfg", "job", "--resolve", cwd=tmp_path).stdout
    assert "mode: absolute" in text
    assert "value: 0.001" in text
    assert "expansion: 16" in text
    assert "defaults-tree" not in text
    assert "dataset: pbmc68k_reduced" in steer("fit", "--info", "defaults-tree").stdout
    assert not (tmp_path / "outputs").exists()


def test_own_config_folder(steer, tmp_path):
    (tmp_path / "my" / "sae").mkdir(parents=True)
    (tmp_path / "my" / "sae" / "mine.yaml").write_text("defaults: [_schema, _self_]\nexpansion: 3\nk: 5\n")
    assert "expansion: 3" in steer("fit", "sae=mine", "--config-dir", str(tmp_path / "my"), "--cfg", "job").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "objective=latnt"], "did you mean 'latent'?"),
        (["fit", "sae.kk=3"], "unknown key in sae 'kk'"),
        (["fit", "sae.k=many"], "sae.k"),
        (["fit", "lambda.value=-1"], "must be greater than 0"),
        (["fit", "dataset=h5ad", "dataset.path=no.h5ad", "dataset.label=x"], "does not exist"),
        (["fit", "layer=9"], "blocks 0 to 5"),
        (["fit", "model=local", "model.path=/nowhere"], "no config.json in /nowhere"),
        (["fit", "contrast=labels", "contrast.source=CD4", "contrast.target=foo"], "unknown label in 'bulk_labels' 'CD4'"),
        (["show", "last"], "no runs in outputs; start with: steer run"),
    ],
)
def test_mistakes_end_with_one_clear_line(steer, tmp_path, words, message):
    done = steer(*words, ok=False, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("outputs/.store/*/*/artefact.json"))  # said before anything was computed


@pytest.fixture(scope="module")
def whole_run(steer, workdir):
    """The folder of one `steer run`, whose store the tests after it share."""
    return workdir / steer(*small("run")).stdout.strip().splitlines()[-1]


def test_a_whole_run_and_its_folder(whole_run):
    folder = whole_run
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert manifest["threads"] >= 1
    stages = [a["stage"] for a in manifest["artefacts"]]
    for stage in ("extract", "streams", "train-sae", "fit", "expression-path", "evaluate"):
        assert stage in stages
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["sae_held/fvu"] < 1
    assert metrics["latent/gap"] <= 1e-6
    scores = pd.read_csv(folder / "scores.csv")
    recipes = set(scores["recipe"])
    assert {"latent", "expression", "no-op", "SAE spliced in", "split-half floor"} <= recipes
    assert {"random features, as latent", "random features, as expression", "mean difference, gap of latent"} <= recipes
    no_op = scores[(scores["recipe"] == "no-op") & scores["score"].isin(["change", "closer", "edistance", "gap"])]
    assert (no_op["value"] == 0).all()
    both = scores[(scores["recipe"] == "latent") & (scores["space"] == "layer") & (scores["score"] == "gap")]
    assert set(both["split"]) == {"fit", "held"}
    assert both.set_index("split").loc["fit", "value"] > 0
    for name in ("headline", "mirror_boxplot", "before_after", "sparsity", "feature_counts", "waterfall", "plane"):
        for suffix in ("png", "svg", "csv"):
            assert (folder / "plots" / f"{name}.{suffix}").stat().st_size > 100
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert (folder / "run.log").stat().st_size > 100
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == len(list((folder / "plots").glob("*.svg")))
    assert "Recipe expression" in page
    assert (folder / "conclusion.txt").read_text().splitlines()[0] in html.unescape(page)
    assert len(page) < 5_000_000


def test_a_second_run_builds_nothing(steer, workdir, whole_run):
    before = builds(workdir)
    steer(*small("run"))
    steer(*small("plot", "reuse=only"))
    assert builds(workdir) == before


def test_runs_and_show(steer, whole_run):
    steer(*small("plot"))
    listed = steer("runs").stdout
    assert "run" in listed
    assert "done" in listed
    shown = steer("show", "last").stdout
    assert "plot" in shown
    assert "reused extract" in shown
    assert "names 0 runs" in steer("show", "nothing", ok=False).stderr


def test_lambda_sweep_extracts_once_and_trains_once(steer, workdir, tmp_path):
    ratios = ",".join(f"{r:g}" for r in np.geomspace(0.5, 0.02, 10))
    steer(*small("fit"), "-m", "lambda=ratio", f"lambda.value={ratios}", cwd=tmp_path)
    counted = builds(tmp_path)
    assert (counted["extract"], counted["streams"], counted["train-sae"], counted["fit"]) == (1, 1, 1, 10)
    metrics = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("outputs/fit/*/*_sweep/*/metrics.json"))]
    assert len(metrics) == 10
    by_ratio = sorted((m["fit/ratio"], m["fit/n_1e-06"]) for m in metrics)
    assert by_ratio[0][1] > by_ratio[-1][1]


@pytest.mark.slow
def test_parallel_sweep_over_objectives_builds_each_stage_once(steer, tmp_path):
    words = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "objective=latent,expression", "lambda=ratio")
    steer(*small("fit"), *words, "lambda.value=0.2,0.1,0.15,0.3,0.05", "threads=1", cwd=tmp_path)
    counted = builds(tmp_path)
    assert (counted["extract"], counted["streams"], counted["train-sae"], counted["fit"]) == (1, 1, 1, 10)
    # nodes 0 (theta = 0), 1/3, 1/9: shared by the five expression fits
    assert counted["expression-path"] == 3
    runs = list(tmp_path.glob("outputs/fit/*/*_sweep/*/manifest.json"))
    assert len(runs) == 10
    assert {json.loads(p.read_text())["status"] for p in runs} == {"done"}


@pytest.mark.slow
def test_extraction_in_parts_by_submitit_and_the_join(steer, tmp_path):
    words = ("extract.parts=2", "extract.shard_tokens=3000", "threads=1")
    launcher = ("-m", "hydra/launcher=submitit_local", "extract.part=0,1")
    steer(*small("extract"), *words, *launcher, cwd=tmp_path)
    assert not (tmp_path / "outputs" / ".store" / "builds.jsonl").exists()
    assert len(list(tmp_path.glob("outputs/.store/extract/*.partial/part_*.npz"))) > 5
    done = steer(*small("extract"), *words, cwd=tmp_path)
    assert builds(tmp_path)["extract"] == 1
    genes = pd.read_csv(tmp_path / done.stdout.strip().splitlines()[-1] / "genes.csv")
    assert set(genes["how"]) <= {"symbol", "alias", "ensembl"}


def test_a_plan_runs_nothing(steer, tmp_path):
    text = steer(*small("run"), "--plan", cwd=tmp_path).stdout
    assert "tokens" in text
    assert "GB for 1 layer(s)" in text
    assert re.search(r"null +2 fits; 4 exact refits .*, 2 through the model: some \d+ s", text)
    assert not (tmp_path / "outputs" / ".store" / "builds.jsonl").exists()


def test_online_training_as_typed(steer, tmp_path):
    steer(*small("train-sae"), "activations=online", "sae.tokens=20000", cwd=tmp_path)
    assert builds(tmp_path)["train-sae"] == 1
    assert not list(tmp_path.rglob("streams_*.npy"))


def test_features_as_typed(steer, workdir, whole_run):
    """The number and the text are arguments of their own; overrides work as everywhere."""
    small_sets = ("annotate.min_size=3", "annotate.n_random=1")
    done = steer(*small("features"), *small_sets, "--find", "it's a kinase, or not")
    assert "0 features with 'it's a kinase, or not'" in done.stderr + done.stdout
    done = steer("feature", "5", *small(), *small_sets, "feature.alphas=[-5,5]", "feature.cells=4", "feature.n_random=1")
    assert "feature 5" in done.stdout
    card = json.loads((workdir / done.stdout.strip().splitlines()[-1] / "card.json").read_text())
    assert card["feature"] == 5
    assert "unknown" in steer(*small("annotate"), "annotate.library=go_pb", ok=False).stderr


def test_bare_lambda_sweep_and_sae_choice_as_typed(steer, workdir):
    steer(*small("fit"), "-m", "lambda=1e-3,1e-2")
    newest = sorted(workdir.glob("outputs/fit/*/*_sweep"))[-1]
    lams = [json.loads((newest / n / "metrics.json").read_text())["fit/lam"] for n in "01"]
    assert lams == [0.001, 0.01]
    words = [w for w in small("train-sae") if w != "debug=small"]
    done = steer(*words, "sae=x16_k32", "sae.tokens=20000", "objective.max_cells=4")
    features = pd.read_csv(workdir / done.stdout.strip().splitlines()[-1] / "features.csv")
    assert len(features) == 16 * 32


def test_another_contrast_reuses_model_and_dictionary(steer, workdir, whole_run):
    before = builds(workdir)
    words = ("contrast=labels", "contrast.source=CD19+ B", "contrast.target=CD14+ Monocyte")
    steer(*small("fit"), *words)
    after = builds(workdir)
    assert after["extract"] == before["extract"]
    assert after["train-sae"] == before["train-sae"]
    assert after["streams"] == before["streams"] + 1


def test_same_seed_same_bytes(steer, workdir, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        steer(*small("fit"), "objective=expression", "threads=2", cwd=tmp_path / name)
    (first,), (second,) = (list((tmp_path / n / "outputs/.store/fit").glob("*/theta.npy")) for n in ("a", "b"))
    assert first.parent.name == second.parent.name
    assert first.read_bytes() == second.read_bytes()


def test_completion_offers_groups_and_choices():
    steer = str(Path(sys.executable).parent / "steer")
    env = os.environ | {"_STEER_COMPLETE": "complete_bash", "COMP_WORDS": "steer fit objective = la", "COMP_CWORD": "4"}
    text = subprocess.run([steer], env=env, capture_output=True, text=True).stdout
    assert text.split() == ["latent", "latent_final"]
    env |= {"COMP_WORDS": "steer fit obj", "COMP_CWORD": "2"}
    assert "objective=" in subprocess.run([steer], env=env, capture_output=True, text=True).stdout
