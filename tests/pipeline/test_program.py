"""objective=program on a tiny model: the programme as it is asked for, the fit, its limit, its null, its scores."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.commands.evaluate import report
from steerpipe.data.genesets import find_set
from steerpipe.errors import SteerError
from steerpipe.pipeline.evaluation import evaluation
from steerpipe.pipeline.fit import fit
from steerpipe.pipeline.null import null_recipes
from steerpipe.pipeline.pipeline import Pipeline
from steerpipe.pipeline.problems import solve
from steerpipe.pipeline.program import phenotype, random_phenotype, reach
from steerpipe.pipeline.program_scores import RECIPE, held_scorer, row_of
from steerpipe.store import Store

from ..made import a_run

UP = "recipe.up=[CD8A,CD8B,GZMB,NKG7]"


@pytest.fixture(scope="module")
def make(tiny_folder, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("program") / "store")

    def make(*overrides):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=120"]
        return Pipeline(compose(*words, "sae.tokens=20000", "objective=program", *overrides), store)

    return make


def test_genes_that_the_data_lacks_are_listed_and_half_is_held_out(make):
    experiment = make("recipe.up=[CD8A,CD8B,GZMB,NKG7,NOSUCH,CD8A]", "recipe.down=[LYZ,IL7R]").experiment()
    asked = phenotype(experiment)
    assert [experiment.genes[i] for i in asked.program.up] == sorted(
        {"CD8A", "CD8B", "GZMB", "NKG7"}, key=experiment.genes.index
    )
    assert {experiment.genes[i] for i in asked.program.down} == {"LYZ", "IL7R"}
    assert asked.missing == ["NOSUCH"]
    assert asked.seen[asked.program.up].sum() == 2
    seen, held = asked.weights("seen"), asked.weights("held")
    assert not ((seen != 0) & (held != 0)).any()
    perturbed = np.flatnonzero(held < 0)[:2]
    without = asked.weights("held", without=np.append(perturbed, asked.program.up[0]))
    assert not without[perturbed].any()
    assert (without[asked.program.up] > 0).tolist() == (held[asked.program.up] > 0).tolist()


def test_cells_to_be_like(make):
    from steerpipe.models.checkpoints import model_genes
    from steerpipe.pipeline.activations import load_cells

    pipeline = make("recipe.like=CD14+ Monocyte", "recipe.n_like=5")
    experiment = pipeline.experiment()
    asked = phenotype(experiment)
    assert len(asked.program.up) == len(asked.program.down) == 5
    config, source = pipeline.config, experiment.activations
    cells = load_cells(config, model_genes(config.model.path, None))
    X = cells[: cells.shape[0]].toarray()
    y = np.log1p(1e4 * X / X.sum(1, keepdims=True))[:, cells.valid]
    like = source.fit[(source.obs["bulk_labels"] == "CD14+ Monocyte").to_numpy()[source.fit]]
    d = y[like].mean(0) - y[experiment.split.source_fit].mean(0)
    assert set(asked.program.up) == set(np.argsort(-d)[:5])
    assert set(asked.program.down) == set(np.argsort(d)[:5])


@pytest.mark.parametrize("mode", ["multiply", "add"])
@pytest.mark.parametrize("match", ["population", "cell"])
def test_the_recipe_keeps_its_limit_and_two_programmes_have_two_keys(make, mode, match):
    how = [f"objective.mode={mode}", f"objective.match={match}", "lambda.value=0.2"]
    pipeline = make(UP, "recipe.max_shift=0.05", *how)
    experiment = pipeline.experiment()
    recipe = fit(experiment, pipeline.config.objective)
    assert recipe.theta.any()
    assert recipe.info["loss"] < recipe.info["loss_at_zero"] - 1e-3
    problem, limit = reach(experiment, recipe.settings, experiment.fit_rows)
    assert np.sqrt(problem.loss(recipe.theta)) <= limit * (1 + 1e-9)
    other = make("recipe.up=[CD8A,CD8B,LYZ,IL7R]", "recipe.max_shift=0.05", *how)
    assert fit(other.experiment(), other.config.objective).artefact.key != recipe.artefact.key


def test_the_null_is_of_random_programmes(make):
    pipeline = make(UP, "lambda.value=0.3")
    experiment = pipeline.experiment()
    _, thetas = null_recipes(experiment, pipeline.config.objective)
    assert len(thetas) == 2
    for number, theta in enumerate(thetas):
        other = random_phenotype(experiment, number)
        found = solve(other, other.context.config.objective, [experiment.sides], other.context.config.lam, direct=True)
        np.testing.assert_allclose(theta, found.theta, atol=1e-6)
    assert (np.abs(thetas).sum(1) > 0).all()
    drawn = [phenotype(random_phenotype(experiment, i)).program for i in range(2)]
    assert set(drawn[0].up) != set(drawn[1].up)
    assert not set(drawn[0].up) & set(phenotype(experiment).program.up)


def test_it_is_evaluated_as_others_are(make):
    pipeline = make(UP, "evaluate.objectives=[latent,program]", "lambda.value=0.3")
    found = evaluation(pipeline)
    scores = found.scores
    rows = scores[(scores["recipe"] == "program") & (scores["split"] == "held")]
    assert {"layer", "final", "expression"} <= set(rows["space"])
    assert (rows["n_null"] == 2).any()


def test_an_evaluation_has_the_rise_of_the_held_out_half(make, tmp_path):
    """The rise is that of the score's held-out weights over held-out cells, steered through the model once more."""
    pipeline = make(UP, "evaluate.objectives=[program]", "lambda.value=0.3")
    found, run = evaluation(pipeline), a_run(tmp_path / "run")
    report(run, found, [])
    experiment = pipeline.experiment(scored=True)
    how = held_scorer(experiment)
    assert not np.isin(experiment.cells[how.rows], experiment.cells[experiment.fit_rows]).any()
    after = how.recipe(found.recipes[0].theta, "multiply").expression
    weights = phenotype(experiment).weights("held")
    row = row_of(found.programs, RECIPE)
    assert row["rise"] == pytest.approx(float(((after - how.base.expression) @ weights).mean()), abs=1e-6)
    assert json.loads((run.path / "metrics.json").read_text())["program/rise"] == pytest.approx(row["rise"])
    assert "held-out half" in (run.path / "conclusion.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "objective=program needs a programme: recipe.up="),
        (["recipe.up=[CD8Z,NKG9]"], "unknown gene in recipe.up 'CD8Z'; did you mean 'CD8"),
        (["recipe.up=[CD8A,NOSUCH]"], "recipe.up has 1 genes of the data; two are needed.*lacking: NOSUCH"),
        (["recipe.up=[CD8A,CD8B]", "recipe.down=[CD8A,LYZ]"], "CD8A is to rise and to fall"),
        (["recipe.set=go_bp:T cell activation invlved in nothing"], "unknown set of go_bp in recipe.set .*; did you mean"),
        (["recipe.set=go_bp"], "must be LIBRARY:SET"),
        (["recipe.set=go_pb:translation"], "unknown library of recipe.set 'go_pb'; did you mean 'go_bp'"),
        (["recipe.like=CD14 Monocyte"], "did you mean 'CD14\\+ Monocyte'"),
    ],
)
def test_mistakes(make, words, message):
    with pytest.raises(SteerError, match=message) as error:
        phenotype(make(*words).experiment())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe.up=[CD8A]", "recipe.set=go_bp:translation"], "recipe.up and recipe.set both say"),
        (["recipe.like=B", "recipe.down=[LYZ]"], "recipe.like and recipe.down both say"),
        (["recipe.candidates=genes"], "Allowed: expressed, tf, surface"),
        (["recipe.max_shift=0"], "greater than 0"),
        (["recipe.candidates=[]"], "perturbs nothing"),
        (["objective=program", "objective.mode=clamp"], "clamp is fitted for objective=latent"),
    ],
)
def test_settings_that_are_not_allowed(words, message):
    with pytest.raises(SteerError, match=message):
        compose(*words)


def test_a_set_is_found_by_its_name_or_its_words():
    name, genes = find_set("go_bp:Cytoplasmic Translation", "recipe.set")
    assert name == "cytoplasmic translation"
    assert "RPL3" in genes
    assert find_set("go_bp:cytoplasmic_translation", "recipe.set") == (name, genes)
    with pytest.raises(SteerError, match=r"could be any of: .*in all"):
        find_set("go_bp:T cell activat", "recipe.set")
    assert find_set("go_bp:single strand", "recipe.set")[0] == "single strand break repair"  # not those of single stranded RNA


def test_sweeps_share_what_the_programme_does_not_change(make):
    """Another programme leaves activations, dictionary and streams as they are."""
    first, second = make(UP), make("recipe.set=go_bp:cytoplasmic translation")
    one, other = first.experiment(), second.experiment()
    assert one.streams.key == other.streams.key
    assert one.dictionary.artefact.key == other.dictionary.artefact.key
    latent = replace(first.config.objective, name="latent")
    assert fit(one, latent).artefact.key == fit(other, latent).artefact.key
