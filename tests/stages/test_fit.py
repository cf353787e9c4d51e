"""Fits and their scores as stages, on a tiny model: every objective, mode and choice of tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.errors import SteerError
from steerpipe.run import Run
from steerpipe.stages.common import Context
from steerpipe.stages.evaluate import evaluation, report
from steerpipe.stages.experiment import prepare
from steerpipe.stages.expression import ExpressionPath
from steerpipe.stages.fit import fit, recipe_table, shift
from steerpipe.steering.intervene import recipe_edit, run_edit
from steerpipe.store import Store


@pytest.fixture(scope="module")
def context(tiny_folder, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("fit")

    def make(*overrides):
        words = [
            "debug=small",
            "model=local",
            f"model.path={tiny_folder}",
            "layer=1",
            "dataset.max_cells=120",
            "sae.tokens=20000",
        ]
        run = Run(outputs / "run", "test", {})
        run.path.mkdir(parents=True, exist_ok=True)
        return Context(compose(*words, *overrides), Store(outputs / "store"), run)

    return make


def fitted(context, *overrides):
    made = context(*overrides)
    experiment = prepare(made)
    return experiment, fit(experiment, made.config.objective)


@pytest.mark.parametrize(
    ("mode", "tokens"),
    [("multiply", "all"), ("multiply", "[CD8A,NKG7,LYZ]"), ("add", "genes"), ("clamp", "genes"), ("clamp", "[CD8A,NKG7,LYZ]")],
)
def test_the_latent_fit_does_what_it_says_to_the_cells(context, mode, tokens):
    """The loss that is reported is the one that the model's own pooled stream shows after the edit."""
    words = ("objective.learnable=all", f"objective.mode={mode}", f"objective.tokens={tokens}")
    experiment, recipe = fitted(context, *words)
    rows = experiment.fit_rows
    edit = recipe_edit(experiment.sae, experiment.sae.W_dec.new_tensor(recipe.theta), recipe.mode)
    plain, steered = (run_edit(experiment.cached, rows, e).layer for e in (None, edit))
    np.testing.assert_allclose(steered - plain, shift(experiment, recipe.theta, mode, rows), atol=1e-4)
    mu = experiment.layer[experiment.split.target_fit].mean(0)
    assert recipe.info["loss"] == pytest.approx(np.square(steered - mu).sum(1).mean(), rel=1e-3)
    assert recipe.info["loss"] < recipe.info["loss_at_zero"]
    assert recipe.info["gap"] <= 1e-8


@pytest.mark.parametrize(("name", "mode"), [("latent_final", "multiply"), ("expression", "add"), ("mixed", "multiply")])
def test_objectives_through_the_model_fall_and_refit(context, name, mode):
    _, recipe = fitted(context, f"objective={name}", f"objective.mode={mode}", "objective.refit=true")
    assert recipe.info["loss"] < recipe.info["loss_at_zero"]
    assert (recipe.mode, recipe.objective) == (mode, name)
    assert set(np.flatnonzero(recipe.refit)) <= set(np.flatnonzero(recipe.theta))
    assert recipe.info["refit_loss"] <= recipe.info["loss"] * (1 + 1e-6)


def test_adam_is_chosen_by_a_setting_and_ends_above(context):
    _, exact = fitted(context)
    experiment, theirs = fitted(context, "objective.solver=adam")
    assert theirs.info["lam"] == pytest.approx(exact.info["lam"])
    assert theirs.info["objective"] > exact.info["objective"]
    assert theirs.info["gap"] > 1e-4 > exact.info["gap"]
    assert theirs.info["n_1e-06"] > exact.info["n_1e-06"]
    assert len(theirs.path) == 1
    assert list(recipe_table(theirs, experiment)["theta"].abs()) == sorted(np.abs(theirs.theta[theirs.theta != 0]))[::-1]


def test_a_warm_start_takes_the_gradient_of_the_node_before(context):
    made = context("objective=expression")
    path = ExpressionPath(prepare(made), made.config.objective)
    node = path.node(1)
    again = path.problem.value_and_gradient(node.theta)
    assert node.loss == pytest.approx(again[0], rel=1e-5)
    np.testing.assert_allclose(node.gradient, again[1], atol=1e-5 * np.abs(again[1]).max())


def test_tokens_are_the_experiments_and_known(context):
    made = context()
    with pytest.raises(SteerError, match="the experiment steers genes"):
        fit(prepare(made), replace(made.config.objective, tokens="all"))
    with pytest.raises(SteerError, match=r"unknown gene in objective\.tokens 'CD8'"):
        prepare(context("objective.tokens=[CD8]"))


def test_one_table_has_every_objective_its_refit_and_its_controls(context):
    names = ["latent", "mixed"]
    made = context(
        f"evaluate.objectives=[{','.join(names)}]", "objective.refit=true", "evaluate.n_random=1", "objective.max_steps=2"
    )
    found = evaluation(made)
    recipes = set(found.scores["recipe"])
    for name in names:
        assert {name, f"{name}, refit", f"{name}, labels shuffled", f"random features, as {name}"} <= recipes
    assert {"SAE spliced in", "mean difference (dense)", "no-op", "split-half ceiling"} <= recipes
    held = found.directions[found.directions["split"] == "held"].set_index(["recipe", "genes"])
    assert held.loc[("no-op", "de"), "gap_fraction"] == 0
    assert {"expressed", "de", "up_unseen", "down_seen"} <= set(found.directions["genes"])
    assert set(found.entanglement["recipe"]) == {*names, "random active features"}
    assert found.entanglement["entanglement"].dropna().between(0, 1).all()
    assert set(found.genes["recipe"]) >= recipes - {"split-half ceiling"}
    last = found.cumulative.groupby("recipe").last()
    assert last.loc["mixed", "right"] == pytest.approx(held.loc[("mixed", "expressed"), "right"])
    report(made, found)
    for name in ("two_by_two", "markers", "directions", "cumulative", "steering_genes", "entanglement"):
        assert (made.run.path / f"{name}.csv").is_file()


def test_controls_can_be_left_out(context):
    found = evaluation(context("evaluate.objectives=[latent]", "evaluate.controls=none"))
    assert set(found.scores["recipe"]) == {"latent", "no-op"}
