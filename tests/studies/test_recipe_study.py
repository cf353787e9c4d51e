"""`steer recipe` end to end, on a tiny model with random weights."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import hypergeom

from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.errors import SteerError
from steerpipe.interpret.programs import gene_sets, participation_ratio
from steerpipe.models.aido_cell import ArchConfig
from steerpipe.models.checkpoints import save_model
from steerpipe.pipeline.annotation import inputs
from steerpipe.pipeline.feature_activity import activity
from steerpipe.pipeline.fit import fit
from steerpipe.pipeline.program import phenotype
from steerpipe.store import Store
from steerpipe.studies.recipe import perturb, plan, study
from steerpipe.studies.recipe.candidates import SURFACE, candidate_genes
from steerpipe.studies.recipe.compute import Back
from steerpipe.studies.recipe.terms import feature_terms

from ..conftest import random_model
from ..made import Made, a_run

SMALL = ["debug=small", "model=local", "layer=1", "dataset.max_cells=120", "sae.tokens=20000", "annotate.min_size=3"]
UP = "recipe.up=[CD8A,CD8B,GZMB,NKG7,NOSUCH]"


@pytest.fixture(scope="module")
def make(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")

    def make(*overrides, model=tiny_folder):
        run = a_run(folder / f"run{len(list(folder.glob('run*')))}")
        words = [*SMALL, f"model.path={model}", "lambda.value=0.2", *overrides]
        return Made(compose(*words), Store(folder / "store"), run=run)

    return make


@pytest.fixture(scope="module")
def done(make):
    context = make(UP, "recipe.stable=0.01")
    command.main("recipe", context, context.run)
    return context.run.path


def back_of(pipeline):
    experiment = pipeline.experiment()
    asked = phenotype(experiment)
    return Back(asked, fit(experiment, pipeline.config.objective.named("program")), *candidate_genes(asked))


def test_tables_figure_and_conclusion(done):
    scores, draws, genes = (pd.read_csv(done / f"{name}.csv") for name in ("scores", "draws", "genes"))
    assert set(scores["half"]) == {"seen", "held", "all"}
    rows = scores.set_index(["what", "half"])
    assert (rows.loc["no-op", "rise"] == 0).all()
    assert rows.loc[("recipe", "seen"), "rise"] > 0
    assert rows.loc[("recipe", "held"), ["p_program", "p_features", "p_cross"]].between(0, 1).all()
    assert (draws.groupby("what")["draw"].nunique()[["random features", "random programme, its own rise"]] == 2).all()
    own = genes["gene"].isin(["CD8A", "CD8B", "GZMB", "NKG7"])
    assert (own == genes["apart"]).all()
    assert not genes.loc[own, "named"].any()
    assert len(genes[~own]) <= 2 * 6
    assert genes["stability"][~own].between(0, 1).all()
    terms = pd.read_csv(done / "features.csv")
    assert len(terms) == len(pd.read_csv(done / "recipe.csv"))
    lines = (done / "conclusion.txt").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("CD8A CD8B GZMB NKG7 ...: ")
    assert (done / "plots" / "recipe.png").stat().st_size > 1000
    numbers = json.loads((done / "metrics.json").read_text())
    assert numbers["recipe/rise"] == pytest.approx(rows.loc[("recipe", "held"), "rise"])


@pytest.mark.parametrize("name", ["", "circular_"])
def test_terms_are_the_hypergeometric_ones_of_the_genes_that_are_left(make, name):
    back = back_of(make(UP))
    terms, given = feature_terms(back.asked, back.recipe), inputs(back.experiment.context)
    _, where = activity(given.context, given.source, "sae", given.dictionary.sae, given.dictionary.artefact)
    M, own = where.matrix(), back.asked.program.genes
    sets = gene_sets(M, participation_ratio(M), smallest=10, largest=100)
    left = given.expressed.copy()
    if not name:
        left[own] = False
    background = {given.source.genes[i] for i in np.flatnonzero(left)}
    library = {term: genes & background for term, genes in zip(given.sets.terms, given.sets.genes, strict=True)}
    assert (terms["own_genes"] > 0).any()
    for row in terms.itertuples():
        mine = {given.source.genes[i] for i in sets[row.feature].indices} & background
        assert row.own_genes == len(set(sets[row.feature].indices) & set(own))
        p = {
            term: hypergeom.sf(len(mine & genes) - 1, len(background), len(genes), len(mine)) if mine & genes else 1.0
            for term, genes in library.items()
        }
        assert p[getattr(row, f"{name}term")] == pytest.approx(min(p.values()))


def test_perturbations_are_those_of_the_whole_model(make):
    """Against the counts changed by hand and run from the start."""
    from steerpipe.models.preprocess import model_input

    back = back_of(make(UP))
    found = back.measured(back.candidates)
    assert found.shape[:3] == (6, 2, 3)
    model, cells = back.experiment.cached.model, back.experiment.cells[back.rows]
    assert set(cells) <= set(back.experiment.split.source_fit)
    counts = back.counts[cells].toarray()
    read = back.counts.valid

    def embed(X):
        with torch.no_grad():
            return model.stream(model_input(X, model.arch.depth), 1)[:, read].mean(1).numpy()

    for i in (0, 5):
        changed = counts.copy()
        changed[:, read[back.candidates[i]]] = 0
        np.testing.assert_allclose(found[i, 0], embed(changed) - embed(counts), atol=1e-5)
    assert np.abs(found[:, 1]).max() > 1e-4


def test_a_killed_run_resumes_at_the_gene(make, monkeypatch):
    back, measured, shifts = back_of(make(UP, "recipe.n_cells=2")), [], perturb.Perturber.shifts

    def stop_at_the_third(self, column, base):
        measured.append(column)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return shifts(self, column, base)

    monkeypatch.setattr(perturb.Perturber, "shifts", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        back.measured(back.candidates)
    measured.append(0)
    back.measured(back.candidates)
    assert measured[4:] == back.candidates[2:].tolist()
    before = len(measured)
    back_of(make("recipe.up=[IL7R,CCR7,CD3D]", "recipe.n_cells=2")).measured(back.candidates)  # another programme shares them
    assert len(measured) == before


def test_a_model_that_predicts_the_same_whatever_it_reads_has_no_recipe(tiny_genes, make, tmp_path):
    deaf = random_model(tiny_genes)
    with torch.no_grad():
        deaf.cls["predictions"]["transform"]["dense"].weight.zero_()
    save_model(deaf, tmp_path / "deaf", dtype=torch.float32)
    context = make(UP, model=tmp_path / "deaf")
    command.main("recipe", context, context.run)
    assert "nothing: no feature raises the programme" in (context.run.path / "conclusion.txt").read_text()


def test_candidates(make):
    def genes(*words):
        asked = phenotype(make(UP, *words).experiment())
        return {asked.experiment.genes[i] for i in candidate_genes(asked)[0]}

    assert genes("recipe.candidates=[LYZ,CD4]") == {"LYZ", "CD4"}
    assert all(SURFACE.fullmatch(gene) for gene in genes("recipe.candidates=surface", "recipe.max_candidates=50"))
    assert {"CD4", "IL7R", "HLA-DRA", "CCR7"} <= {g for g in ("CD4", "IL7R", "HLA-DRA", "CCR7", "LYZ") if SURFACE.fullmatch(g)}
    assert not SURFACE.fullmatch("LYZ")
    assert not SURFACE.fullmatch("CDK1")
    assert len(genes("recipe.candidates=expressed", "recipe.max_candidates=4")) == 4


def test_the_plan_counts_the_passes():
    config = compose(*SMALL[:1], "model=mini", "recipe.n_cells=3", "recipe.max_candidates=6")
    text, numbers = plan.cost(config, PlannedBlock(ArchConfig(8, 6, 1, 8, 10), tuple("abcdefghij"), 1.0, 1))
    assert numbers["plan/recipe_passes"] == 2 * (6 + plan.PROGRAM_GENES) * 3
    assert numbers["plan/recipe_gene_seconds"] == 2 * 3 * 5
    assert "126 passes of 5 blocks (30 s a gene)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "objective=program needs a programme"),
        ([UP, "model.readout=masked"], "use model.readout=reconstruction"),
        ([UP, "objective.mode=clamp"], "take multiply or add"),
        ([UP, "recipe.candidates=[LYZZ]"], "unknown gene in recipe.candidates 'LYZZ'; did you mean 'LYZ'"),
        ([UP, "recipe.candidates=[CD8A]"], "no such gene beside the programme's"),
        ([UP, "annotate.library=go_pb"], "unknown annotate.library 'go_pb'; did you mean 'go_bp'"),
    ],
)
def test_mistakes(make, words, message):
    with pytest.raises(SteerError, match=message) as error:
        study.study(make(*words))
    assert "\n" not in str(error.value)
