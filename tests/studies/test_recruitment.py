"""The diagnosis as a stage, on a tiny model: what it keeps, resumes and prints."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from steerpipe.cli.hydra import compose
from steerpipe.commands import study
from steerpipe.errors import SteerError
from steerpipe.evaluate.floors import VERDICTS
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.null import null_recipes
from steerpipe.pipeline.pipeline import Pipeline
from steerpipe.pipeline.problems import latent_problem, model_objective
from steerpipe.pipeline.program import random_phenotype
from steerpipe.run import Run
from steerpipe.store import Store
from steerpipe.studies.recruitment import compute, floors
from steerpipe.studies.recruitment import study as recruitment

from ..made import Made

TABLES = ("equal", "cap", "path", "features", "verdicts", "widths")


@pytest.fixture(scope="module")
def context(tiny_folder, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("diagnose")

    def make(*overrides, name="run"):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=150", *overrides]
        run = Run(outputs / name, "test", {})
        run.path.mkdir(parents=True, exist_ok=True)
        return Made(compose(*words), Store(outputs / "store"), run=run)

    return make


@pytest.fixture(scope="module")
def experiment(context):
    return prepare(context())


def test_every_table_and_figure_and_nothing_is_built_twice(context):
    made = context()
    study.main("recruitment", made, made.run)
    folder = made.run.path
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in (*TABLES, "calibration")}
    features = tables["features"]
    assert set(features["verdict"]) <= set(VERDICTS)
    assert set(features["objective"]) == {"latent", "expression"}
    latent = set(features.loc[features["objective"] == "latent", "feature"])
    expression = features[features["objective"] == "expression"]
    assert (expression["extra"] == ~expression["feature"].isin(latent)).all()
    counted = tables["verdicts"].set_index(["features", "verdict"])["n"]
    assert sum(counted["expression", verdict] for verdict in VERDICTS) == len(expression)
    assert counted["extra of expression", "above both"] <= counted["expression", "above both"]
    assert tables["cap"]["top_n"].tolist() == ["10", "all"]
    assert tables["path"].query("ratio == 1")["n_1e-06"].eq(0).all()
    assert set(tables["widths"]["sae"]) == {"x4_k8", "x5_k8"}
    assert tables["widths"]["features"].tolist() == [128, 128, 160, 160]
    assert features["null_p"].between(0, 1).all()
    assert (features.loc[features["null_p"] > 0.05, "verdict"] == VERDICTS[-1]).all()
    assert set(tables["calibration"]["objective"]) == {"latent", "expression"}
    assert tables["equal"]["layer_edistance_p"].between(0, 1).all()
    said = (folder / "conclusion.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in said[:2]] == ["latent", "expression"]
    assert said[-1].startswith("All of it is on one dictionary")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["verdict/expression/above both"] == counted["expression", "above both"]
    assert 0 <= metrics["floors/active_above_activation_floor"] <= metrics["floors/active"] <= 128
    for name in ("recruitment", "lambda_path", "widths"):
        for suffix in ("png", "svg", "csv"):
            assert (folder / "plots" / f"{name}.{suffix}").stat().st_size > 100
    again = context(name="again")
    store = Store(made.store.root, "only")
    study.main("recruitment", Pipeline(again.config, store), again.run)
    assert all(artefact.reused for artefact in store.used)
    assert (again.run.path / "features.csv").read_bytes() == (folder / "features.csv").read_bytes()


def test_counts_are_equal_where_the_table_says_so(experiment):
    recipes = compute.fit_both(experiment)
    table = compute.equal_tables(experiment, recipes, [0.2])
    ratio = table[table["equal"] == "ratio"]["ratio"]
    assert np.ptp(ratio) < 1e-9
    count = table[table["equal"] == "count (expression's)"]["n_1e-06"]
    assert np.ptp(count) <= 1


def test_a_killed_diagnosis_keeps_its_refits(context, experiment, monkeypatch):
    sizes = {"n_refits": 4, "n_cells": 4, "max_steps": 1}
    calls = []
    real = compute.solve

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(compute, "solve", stopping)
    with pytest.raises(KeyboardInterrupt):
        compute.stability(experiment, "expression", **sizes)
    share = compute.stability(experiment, "expression", **sizes)
    assert len(calls) == 5  # two kept, one lost, two more
    assert set(np.unique(share)) <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_latent_stability_finds_a_feature_that_every_half_needs(experiment):
    """The feature with the largest pull at theta = 0 over all cells is in nearly every half-sample fit."""
    share = compute.stability(experiment, "latent", n_refits=20, n_cells=4, max_steps=1)
    problem = latent_problem(experiment, experiment.context.config.objective)
    strongest = int(np.argmax(np.abs(problem.solve(0.05 * problem.lam_max).theta) * np.sqrt(problem.diagonal)))
    assert share[strongest] >= 0.8
    assert share.min() == 0.0
    assert share[~experiment.active].max(initial=0.0) == 0.0


def test_the_activation_floor_of_cells_that_are_all_alike_is_their_activity(experiment, monkeypatch):
    """Permuting genes over identical cells changes nothing, so floor and activity agree."""
    source = experiment.split.source_fit
    cells = floors.load_cells(experiment.context.config, experiment.cached.model.genes)
    one = cells[source[:1]]

    class Alike:
        def __getitem__(self, rows):
            return sp.vstack([one] * len(rows)).tocsr()

    monkeypatch.setattr(floors, "load_cells", lambda *_: Alike())
    other = replace(experiment, context=replace(experiment.context, config=replace(experiment.context.config, seed=99)))
    floor = floors.activation_floor(other, n_permutations=3, n_cells=2, percentile=95)
    np.testing.assert_allclose(floor, experiment.activity[0], atol=2e-3 * experiment.activity[0].max())


def test_an_absolute_lambda_is_refused(context):
    with pytest.raises(SteerError, match=r"add lambda=ratio lambda.value=0.05"):
        recruitment.study(context("lambda=1e-3"))


def test_a_mode_without_alpha_is_refused(context):
    with pytest.raises(SteerError, match=r"objective.mode=add has none; take multiply"):
        recruitment.study(context("objective.mode=add"))


def test_a_programme_is_diagnosed_beside_the_others(context):
    """Its null is of random programmes: what a feature is worth there is worth on the random one's score."""
    words = ["objective=program", "recipe.up=[CD8A,CD8B,GZMB,NKG7]", "lambda.value=0.3", "diagnose.parts=[floors,stability]"]
    made = context(*words, name="program")
    study.main("recruitment", made, made.run)
    features = pd.read_csv(made.run.path / "features.csv")
    some = features[features["objective"] == "program"]
    assert len(some)
    assert some["null_p"].between(0, 1).all()
    assert some["stability"].between(0, 1).all()
    assert "program" in set(pd.read_csv(made.run.path / "calibration.csv")["objective"])
    experiment = made.experiment()
    recipe = compute.fit_both(experiment)["program"]
    _, thetas = null_recipes(experiment, recipe.settings)
    theta = thetas[1]
    value = model_objective(random_phenotype(experiment, 1), recipe.settings).value
    worth = [value(np.where(np.arange(len(theta)) == f, 0.0, theta)) - value(theta) for f in np.flatnonzero(theta)]
    np.testing.assert_allclose(floors.null_effects(experiment, recipe)[1], worth, atol=1e-5)
