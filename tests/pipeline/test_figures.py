"""Every experiment of `make figures`, small, with its figures; the projection and the labels that they draw."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steerpipe.cli.hydra import CONF, compose
from steerpipe.commands import COMMANDS, study
from steerpipe.pipeline.feature_labels import feature_labels, labelled
from steerpipe.pipeline.projection import fit_umap
from steerpipe.plot.figures import mirror_boxplot
from steerpipe.run import Run
from steerpipe.store import Store

from ..made import Made

MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text()
STEPS = [pair[::-1] for pair in re.findall(r"(?<=[ \t,])(run|diagnose|pareto|transfer):(\w+)", MAKEFILE)]
FIGURES = {
    "run": {"headline", "mirror_boxplot", "before_after", "sparsity", "feature_counts", "waterfall", "plane"},
    "pareto": {"pareto"},
    "lambda_path": {"lambda_path"},
    "x8_vs_x16": {"widths"},
    "recruitment": {"recruitment", "lambda_path"},
}


@pytest.fixture(scope="module")
def play(tiny_folder, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("figures")

    def one(stage, name):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=150"]
        run = Run(outputs / name, stage, {})
        run.path.mkdir(parents=True, exist_ok=True)
        small = ["evaluate.objectives=[latent,latent:cell]"] if name == "mirror_boxplot" else []
        small += ["evaluate.dictionaries=2"] if name == "robust" else []
        context = Made(compose(f"experiment={name}", *words, *small), Store(outputs / "store"), run=run)
        command = next(one for one in COMMANDS if one.name == stage)
        if command.study is not None:
            study.main(command.study, context, run)
        else:
            importlib.import_module(f"steerpipe.commands.{command.module}").main(context, run)
        return context

    return one


def test_make_figures_names_every_experiment():
    named = {name.removesuffix("_transfer") for name, _ in STEPS}
    sweeps = {"programmes"}  # thirty runs: hours, by `steer recipe -m` alone
    assert named | sweeps == {path.stem for path in (CONF / "experiment").glob("*.yaml")}


@pytest.mark.parametrize(("name", "stage"), [step for step in STEPS if "kang" not in step[0]], ids=lambda x: x)
def test_an_experiment_draws_its_figures(play, name, stage):
    folder = play(stage, name).run.path
    drawn = {path.stem for path in (folder / "plots").glob("*.png")}
    assert drawn == FIGURES.get(name, FIGURES.get(stage))
    for figure in drawn:
        for suffix in ("svg", "csv"):
            assert (folder / "plots" / f"{figure}.{suffix}").stat().st_size > 100
    assert not list(folder.glob("plots/*.tmp"))


def test_the_front_runs_from_expression_to_latent(play):
    folder = play("pareto", "pareto").run.path
    assert "dealt to the two sides at random" in "".join((folder / "conclusion.txt").read_text().splitlines()[:2])
    table = pd.read_csv(folder / "front.csv")
    front = table[table["weight"].notna()].sort_values("weight")
    assert front["weight"].tolist() == [0, 0.5, 1]
    assert front["layer_gap"].iloc[-1] > front["layer_gap"].iloc[0]
    still = table[table["recipe"] == "no change"]
    assert (still[["layer_change", "de_change"]] == 0).all(axis=None)


def test_steered_cells_are_projected_and_the_map_stays(rng):
    """A point that the reducer was fitted on lands where it is; the embedding does not change."""
    centres = rng.standard_normal((3, 8)) * 8
    points = np.concatenate([c + rng.standard_normal((40, 8)) for c in centres])
    reducer = fit_umap(points, 0)
    before = reducer.embedding_.copy()
    there = reducer.transform(centres[1] + 0.1 * rng.standard_normal((5, 8)))
    np.testing.assert_array_equal(reducer.embedding_, before)
    middle = [before[40 * i : 40 * (i + 1)].mean(0) for i in range(3)]
    assert (np.argmin([np.linalg.norm(there - m, axis=1) for m in middle], axis=0) == 1).all()


def test_labels_are_those_of_the_dictionary_in_use(tmp_path):
    store = Store(tmp_path)

    def build(folder, labels):
        pd.DataFrame({"feature": [3, 5], "label": labels}).to_parquet(folder / "features.parquet")

    def nothing(folder):
        pass

    sae, other = (store.get("train-sae", version=version, config={}, build=nothing) for version in (1, 2))
    fits = [store.get("fit", version=1, config={}, parents=[parent], build=nothing) for parent in (sae, other)]
    assert feature_labels(store, fits[0]) == {}
    for parent, labels in ((sae, ["cytotoxicity", ""]), (other, ["other", None])):
        activity = store.get("activity", version=1, config={}, parents=[parent], build=nothing)
        store.get("annotate", version=1, config={}, parents=[activity], build=lambda f, given=labels: build(f, given))
    assert feature_labels(store, fits[0]) == {3: "cytotoxicity"}
    assert feature_labels(store, fits[1]) == {3: "other"}
    theta = np.zeros(6)
    theta[[3, 5]] = 0.5, -1.0
    assert labelled(theta, feature_labels(store, fits[0]))["label"].tolist() == ["cytotoxicity", ""]


@pytest.mark.parametrize("wild", [0.0, 9.0])
def test_an_outlier_of_the_control_neither_flattens_the_boxes_nor_goes_unsaid(rng, wild):
    rows = []
    for kind in ("recipe", "null"):
        for space in ("layer", "final", "layer_nearest", "de_up", "de_down", "de_up_unseen", "de_down_unseen"):
            change = rng.uniform(-0.4, 0.2, 30) if kind == "recipe" else rng.normal(0, 0.01, 30)
            change[0] = wild if kind == "null" and space == "layer" else change[0]
            frame = pd.DataFrame({"recipe": "latent", "kind": kind, "space": space, "cell": np.arange(30), "change": change})
            rows.append(frame.assign(deal=0))
    figure = mirror_boxplot(pd.concat(rows, ignore_index=True), "caption")
    low, high = figure.axes[0].get_ylim()
    assert -60 < low < -40
    assert 20 < high < 40
    assert ("(1 values beyond the axes)" in figure.get_suptitle()) == (wild > 0)
