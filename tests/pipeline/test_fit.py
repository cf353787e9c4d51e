"""Fits and their scores as stages, on a tiny model: every objective, mode and choice of tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.commands.evaluate import report
from steerpipe.errors import SteerError
from steerpipe.evaluate.inference import COLUMNS
from steerpipe.evaluate.population import SCORES
from steerpipe.pipeline.evaluation import evaluation
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.fit import fit, recipe_table
from steerpipe.pipeline.ladder import StoredLadder
from steerpipe.pipeline.null import deal, null_recipes
from steerpipe.pipeline.problems import shift, solve
from steerpipe.pipeline.recurrence import STABLE, feature_stability
from steerpipe.pipeline.scoring import scorer
from steerpipe.run import Run
from steerpipe.steering.intervene import recipe_edit, run_edit
from steerpipe.store import Store

from ..made import Made


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
        return Made(compose(*words, *overrides), Store(outputs / "store"), run=run)

    return make


def fitted(context, *overrides):
    made = context(*overrides)
    experiment = prepare(made)
    return experiment, fit(experiment, made.config.objective)


@pytest.mark.parametrize("match", ["population", "cell"])
@pytest.mark.parametrize(
    ("mode", "tokens"),
    [("multiply", "all"), ("multiply", "[CD8A,NKG7,LYZ]"), ("add", "genes"), ("clamp", "genes"), ("clamp", "[CD8A,NKG7,LYZ]")],
)
def test_the_latent_fit_does_what_it_says_to_the_cells(context, mode, tokens, match):
    """The loss that is reported is the one that the model's own pooled stream shows after the edit."""
    words = ("objective.learnable=all", f"objective.mode={mode}", f"objective.tokens={tokens}", f"objective.match={match}")
    experiment, recipe = fitted(context, *words)
    rows = experiment.fit_rows
    edit = recipe_edit(experiment.sae, experiment.sae.W_dec.new_tensor(recipe.theta), recipe.mode)
    plain, steered = (run_edit(experiment.cached, rows, e).layer for e in (None, edit))
    np.testing.assert_allclose(steered - plain, shift(experiment, recipe.theta, mode, rows), atol=1e-4)
    mu = experiment.layer[experiment.split.target_fit].mean(0)
    left = (steered - mu).mean(0, keepdims=True) if match == "population" else steered - mu
    assert recipe.info["loss"] == pytest.approx(np.square(left).sum(1).mean(), rel=1e-3)
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


def test_stable_features_alone_may_be_learnt(context):
    words = ("sae.k=4", "sae.tokens=200000", "objective.learnable=stable", "stability.seeds=[0,1]", "lambda.value=0.01")
    experiment, recipe = fitted(context, *words)
    made = experiment.context
    _, table = feature_stability(made, experiment.activations, experiment.dictionary, cells="fit")
    stable = table["stability"].to_numpy() >= STABLE
    assert 0 < stable.sum() < experiment.sae.n_features
    assert len(np.flatnonzero(recipe.theta)) > 0
    assert stable[np.flatnonzero(recipe.theta)].all()
    _, everything = fitted(context, *words[:2], "lambda.value=0.01")
    assert not stable[np.flatnonzero(everything.theta)].all()
    assert "stability" not in recipe_table(recipe, experiment)  # of test cells it is not known yet
    _, known = feature_stability(made, experiment.activations, experiment.dictionary)
    shown = recipe_table(recipe, experiment).set_index("feature")["stability"]
    assert shown.to_dict() == known.set_index("feature")["stability"][shown.index].to_dict()


def test_a_warm_start_takes_the_gradient_of_the_node_before(context):
    made = context("objective=expression")
    path = StoredLadder(prepare(made), made.config.objective)
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


def test_one_table_has_every_objective_its_refit_its_null_and_its_controls(context, caplog):
    names = ["latent", "latent:cell:whitened", "mixed"]
    labels = ["latent", "latent (cell, whitened)", "mixed"]
    words = ["objective.refit=true", "evaluate.n_random=1", "objective.max_steps=2", "evaluate.half_dose=true"]
    made = context(f"evaluate.objectives=[{','.join(names)}]", *words)
    found = evaluation(made)
    scores = found.scores
    recipes = set(scores["recipe"])
    for name in labels:
        assert {name, f"{name}, refit", f"{name}, half dose", f"random features, as {name}"} <= recipes
        assert {f"mean difference, gap of {name}", f"mean difference, norm of {name}"} <= recipes
    assert {"SAE spliced in", "mean difference (dense)", "no-op", "split-half floor"} <= recipes
    assert list(scores.columns[: len(COLUMNS)]) == COLUMNS
    assert not scores.duplicated(["recipe", "split", "space", "score"]).any()
    own = scores[(scores["kind"] == "recipe") & (scores["split"] == "held")]
    assert set(own["space"]) >= {"layer", "final", "expression", "de_up", "de_down", "layer_nearest"}
    assert set(own.loc[own["space"] == "layer", "score"]) == {*SCORES, "closer", "change"}
    judged = own[own["score"].isin(["edistance", "gap"])].set_index(["recipe", "space"]).sort_index()
    assert judged["p"].between(0, 1).all()
    assert judged.loc[("latent", "layer"), "n_null"].tolist() == [4, 4]  # without the model
    assert judged.loc[("latent", "final"), "n_null"].tolist() == [2, 2]
    assert scores.loc[scores["kind"] == "control", "p"].isna().all()
    still = scores[(scores["recipe"] == "no-op") & (scores["split"] == "held")].set_index(["space", "score"])["value"]
    assert still["layer", "edistance"] == still["layer", "gap"] == still["expression", "edistance"] == 0
    assert still["layer", "spread"] == 1
    held = found.directions[found.directions["split"] == "held"].set_index(["recipe", "genes"])
    assert held.loc[("no-op", "de"), "gap_fraction"] == 0
    assert {"expressed", "de", "up_unseen", "down_seen"} <= set(found.directions["genes"])
    assert set(found.entanglement["recipe"]) == {*labels, "random active features"}
    assert found.entanglement["entanglement"].dropna().between(0, 1).all()
    assert set(found.genes["recipe"]) >= recipes - {"split-half floor"}
    last = found.cumulative.groupby("recipe").last()
    assert last.loc["mixed", "right"] == pytest.approx(held.loc[("mixed", "expressed"), "right"])
    assert set(found.stand_ins["objective"]) == {"latent", "latent (cell, whitened)"}
    with caplog.at_level("WARNING"):
        report(made.run, found, ["NOSUCHGENE", found.genes["gene"].iloc[0]])
    assert "the dataset has no NOSUCHGENE among" in caplog.text
    folder = made.run.path
    for name in ("headline", "markers", "agreement", "directions", "cumulative", "steering_genes", "entanglement", "stand_ins"):
        assert (folder / f"{name}.csv").is_file()
    assert "wilcoxon_p" in pd.read_csv(folder / "agreement.csv")
    assert "p" not in pd.read_csv(folder / "agreement.csv")
    assert len((folder / "conclusion.txt").read_text().splitlines()) >= 3


def test_the_layer_scores_need_no_model(context):
    """What the null adds to embeddings by the codes is what the edited model's own stream shows."""
    experiment, recipe = fitted(context)
    how = scorer(experiment)
    moved = shift(experiment, recipe.theta, "multiply", how.rows)
    quick, whole = how.layer_values(moved), how.values(how.recipe(recipe.theta, "multiply"))
    np.testing.assert_allclose(
        how.layer_gaps(np.array([recipe.theta, 0 * recipe.theta]), "multiply"), [quick["layer", "gap"], 0], atol=1e-9
    )
    for key, value in quick.items():
        assert value == pytest.approx(whole[key], abs=2e-3), key


def test_a_null_deals_the_cells_codes_and_all(context):
    experiment, recipe = fitted(context)
    sides = experiment.sides
    first, again, other = (deal([sides], 0, number)[0] for number in (0, 0, 1))
    np.testing.assert_array_equal(first.source, again.source)
    assert not np.array_equal(first.source, other.source)
    assert [len(side) for side in first] == [len(side) for side in sides]
    np.testing.assert_array_equal(np.sort(np.concatenate(first)), np.sort(np.concatenate(sides)))
    assert np.isin(first.source, sides.target).any()
    _, thetas = null_recipes(experiment, recipe.settings)
    assert thetas.shape == (4, experiment.sae.n_features)
    mine = solve(experiment, recipe.settings, [first], experiment.context.config.lam).theta
    np.testing.assert_allclose(thetas[0], mine)


def test_several_dictionaries_give_means_and_ranges(context):
    one = evaluation(context("evaluate.objectives=[latent]"))
    both = evaluation(context("evaluate.objectives=[latent]", "evaluate.dictionaries=2"))
    other = evaluation(context("evaluate.objectives=[latent]", "sae.seed=1"))
    keys = ["recipe", "kind", "split", "space", "score"]
    a, b, mean = (frame.scores.set_index(keys) for frame in (one, other, both))
    key = ("latent", "recipe", "held", "layer", "edistance")
    values = sorted([a.loc[key, "value"], b.loc[key, "value"]])
    assert mean.loc[key, ["value", "lo", "hi"]].tolist() == pytest.approx([np.mean(values), *values])
    assert mean.loc[key, "dictionaries"] == 2
    assert mean.loc[key, "null_mean"] == pytest.approx((a.loc[key, "null_mean"] + b.loc[key, "null_mean"]) / 2)
    row = both.dictionaries.set_index("recipe").loc["latent"]
    assert -1 <= row["shift_cosine"] <= 1
    assert 0 <= row["recur"] <= row["exist"] <= 1


@pytest.mark.parametrize("metric", ["euclidean", "whitened"])
def test_the_orthogonal_penalty_turns_the_shift_towards_the_target(context, metric):
    """Among recipes of the same size, the mean of the fit's cells strays less from the way."""
    across = {}
    for weight in (0, 30):
        words = ("lambda.value=0.02", f"objective.metric={metric}", f"objective.orthogonal={weight}")
        experiment, recipe = fitted(context, *words)
        moved = shift(experiment, recipe.theta, "multiply", experiment.fit_rows).mean(0)
        source, target = (experiment.layer[experiment.cells[rows]].mean(0).astype(float) for rows in experiment.sides)
        way = (target - source) / np.linalg.norm(target - source)
        across[weight] = np.linalg.norm(moved - (moved @ way) * way) / abs(moved @ way)
        assert recipe.info["gap"] <= 1e-8
    assert recipe.objective in ("latent (orthogonal 30)", "latent (whitened, orthogonal 30)")
    assert across[30] < 0.8 * across[0]


def test_controls_can_be_left_out(context):
    found = evaluation(context("evaluate.objectives=[latent]", "evaluate.controls=none"))
    assert set(found.scores["recipe"]) == {"latent", "no-op"}


def test_a_form_that_does_not_exist_is_named():
    with pytest.raises(SteerError, match=r"latent:cel.* cell"):
        compose("evaluate.objectives=[latent:cel]")
