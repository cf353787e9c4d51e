"""Transfer between groups of cells, on a tiny model: groups by the cells' phase."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.commands import study
from steerpipe.errors import SteerError
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.fit import fit
from steerpipe.run import Run
from steerpipe.store import Store
from steerpipe.studies.transfer import compute as transfer

from ..made import Made

PHASE = ["transfer.by=phase", "transfer.types=[G1,S]", "transfer.min_cells=8", "dataset.test_share=0.4"]


@pytest.fixture(scope="module")
def context(tiny_folder, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("transfer")

    def make(*overrides, name="run"):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=400"]
        run = Run(outputs / name, "test", {})
        run.path.mkdir(parents=True, exist_ok=True)
        return Made(compose(*words, *PHASE, *overrides), Store(outputs / "store"), run=run)

    return make


@pytest.fixture(scope="module")
def experiment(context):
    return prepare(context())


def test_groups_share_no_cell_and_keep_the_split(experiment):
    groups = transfer.find_groups(experiment)
    assert [g.name for g in groups] == ["G1", "S"]
    phase = experiment.activations.obs["phase"].to_numpy()
    for group in groups:
        cells = experiment.cells[np.concatenate([group.fit, group.held, group.target_fit])]
        assert (phase[np.concatenate([cells, group.target_held])] == group.name).all()
        assert not set(cells) & set(group.target_held)
        assert set(group.target_fit) <= set(experiment.sides.target)
        assert set(group.fit) <= set(experiment.fit_rows)
        assert set(group.held) <= set(experiment.held_rows)


def test_one_group_of_all_cells_is_the_plain_fit(experiment):
    held = experiment.split.target_held
    whole = transfer.Group("all", experiment.fit_rows, experiment.held_rows, experiment.sides.target, held)
    objective = replace(experiment.context.config.objective, name="latent")
    theta, info = transfer.fit_groups(experiment, [whole], objective)
    np.testing.assert_allclose(theta, fit(experiment, objective).theta, atol=1e-5)
    assert info["n_1e-06"] == (theta != 0).sum()


def test_every_group_is_aimed_at_its_own_target(experiment):
    """A gap of one group alone (the other's target is its own cells' mean) is what the joint fit answers to."""
    groups = transfer.find_groups(experiment)
    objective = replace(experiment.context.config.objective, name="latent")
    joint, _ = transfer.fit_groups(experiment, groups, objective)
    W_dec = experiment.sae.W_dec.detach().cpu().double().numpy()

    def loss(theta):
        total = 0.0
        for g in groups:
            after = experiment.layer[experiment.cells[g.fit]] + (experiment.zbar[g.fit] * theta) @ W_dec
            goal = experiment.layer[experiment.cells[g.target_fit]].mean(0)
            total += ((after.mean(0) - goal) ** 2).sum()
        return total / len(groups)

    lam = experiment.context.config.lam.value
    slope = [(loss(1e-4 * e) - loss(-1e-4 * e)) / 2e-4 for e in np.eye(len(joint))]
    weight = lam * np.abs(np.where(experiment.active, slope, 0)).max()
    best = loss(joint) + weight * np.abs(joint).sum()
    rng = np.random.default_rng(0)
    for _ in range(30):
        other = joint + 0.02 * rng.standard_normal(len(joint)) * experiment.active
        assert loss(other) + weight * np.abs(other).sum() > best
    assert loss(joint) < loss(np.zeros(len(joint)))


def test_tables_and_figures(context):
    made = context("evaluate.markers=[CD8A,NKG7]")
    study.main("transfer", made, made.run)
    folder = made.run.path
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores["relation"]) >= {"own", "transferred", "single type", "no change", "mean difference (dense)"}
    assert set(scores["score_on"]) == {"G1", "S"}
    still = scores[scores["relation"] == "no change"]
    assert (still.loc[still["score"].isin(["change", "edistance", "gap"]), "value"] == 0).all()
    judged = scores[scores["relation"].isin(["own", "transferred"]) & (scores["score"] == "edistance")]
    assert judged["p"].between(0, 1).all()
    assert scores.loc[scores["kind"] == "control", "p"].isna().all()
    # with two groups, all others of one are the other
    keys = ["objective", "space", "score"]
    a = scores[(scores["score_on"] == "G1") & (scores["relation"] == "transferred")].set_index(keys)["value"].sort_index()
    b = scores[(scores["score_on"] == "G1") & (scores["fit_on"] == "S")].set_index(keys)["value"].sort_index()
    np.testing.assert_allclose(a, b.loc[a.index])
    assert set(pd.read_csv(folder / "markers.csv")["gene"]) == {"CD8A", "NKG7"}
    own, other, null, over = (folder / "conclusion.txt").read_text().splitlines()[:4]
    assert own.startswith("Fitted on the type itself: ")
    assert other.startswith("Fitted on the other types: ")
    assert "8 recipes are tested" in null
    assert "one dictionary" in over
    for name in ("transfer", "transfer_markers"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transfer.by=phas"], "unknown column transfer.by 'phas'"),
        (["transfer.types=[G1,G7]"], "unknown type in transfer.types 'G7'"),
        (["transfer.min_cells=90"], r"two types with transfer.min_cells=90 .* there are: G1 \("),
    ],
)
def test_mistakes(context, words, message):
    with pytest.raises(SteerError, match=message):
        transfer.find_groups(prepare(context(*words)))


def test_one_type_is_too_few():
    with pytest.raises(SteerError, match="two groups at least"):
        compose("transfer.types=[G1]")
