"""`steer knockdown`: what is planted comes back, what is nothing stays nothing, and definitions worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.evaluate.knockdown import (
    RealChange,
    block_test,
    cosines,
    de_scores,
    names_dealt,
    programme_auroc,
    real_change,
)
from steerpipe.models.aido_cell import ArchConfig
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.problems import solve
from steerpipe.steering.contrast_streams import CellRows
from steerpipe.studies.knockdown import plan, study
from steerpipe.studies.knockdown.compute import Bench, measure
from steerpipe.studies.knockdown.programmes import gene_weights, known, programmes
from steerpipe.studies.knockdown.targets import find_targets, finder

from ..made import maker, refused

REAL, OTHER_HALF, NOTHING = "LYZ", "CST3", "CD8A"


@pytest.fixture(scope="module")
def file(cells, tmp_path_factory):
    """Lymphocytes as control, monocytes dealt between two "perturbations" of one pathway, and a third that is nothing."""
    rng = np.random.default_rng(0)
    labels = cells.obs["bulk_labels"].astype(str).to_numpy()
    guide = np.where(np.isin(labels, ["CD14+ Monocyte", "Dendritic"]), REAL, "NT").astype(object)
    for name, new, n in ((REAL, OTHER_HALF, 120), ("NT", NOTHING, 90)):
        guide[rng.permutation(np.flatnonzero(guide == name))[:n]] = new
    some = cells.copy()
    some.obs["guide"] = guide.astype(str)
    path = tmp_path_factory.mktemp("knockdown") / "cells.h5ad"
    some.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def make(file, tiny_folder, tmp_path_factory):
    words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "sae.tokens=20000", "dataset=h5ad"]
    words += ["dataset.max_cells=null", f"dataset.path={file}", "dataset.label=guide", "dataset.perturbation=guide"]
    words += ["dataset.control=NT", "dataset.test_share=0.4", "annotate.min_size=3", "lambda.value=0.1"]
    words += ["knockdown.n_permutations=19", f"knockdown.block=[{REAL},{OTHER_HALF}]"]
    return maker(tmp_path_factory.mktemp("study"), *words)


@pytest.fixture(scope="module")
def done(make):
    context = make()
    command.main("knockdown", context, context.run)
    return context.run.path


def test_a_real_difference_is_found_and_a_random_half_is_not(done):
    table = pd.read_csv(done / "perturbations.csv").set_index("perturbation")
    assert set(table.index) == {REAL, OTHER_HALF, NOTHING}
    assert table.loc[[REAL, OTHER_HALF], "de"].min() > 10
    assert (table.loc[[REAL, OTHER_HALF], "gap_p"] == 0.05).all()  # of 20, the least that there is
    assert table.loc[[REAL, OTHER_HALF], "gap"].min() > 0.3
    assert (table.loc[[REAL, OTHER_HALF], "edistance"] < 0).all()
    assert table.loc[NOTHING, "gap_p"] > 0.05 or table.loc[NOTHING, "features"] == 0
    assert table.loc[NOTHING, "de"] <= 2
    assert np.isnan(table.loc[NOTHING, "auprc"])  # too few DE genes: no score is made up
    scored = table.loc[[REAL, OTHER_HALF]]
    assert (scored["auprc_ceiling"] > scored["chance"] + 0.2).all()
    similar = pd.read_csv(done / "similarity.csv").set_index("perturbation")
    assert similar.loc[REAL, OTHER_HALF] > 0.7
    assert similar.loc[REAL, OTHER_HALF] > similar.loc[REAL, NOTHING]
    said = (done / "conclusion.txt").read_text()
    assert "latent: 3 perturbations, 2 with DE genes" in said
    assert "Pathway block: cosine" in said
    assert (done / "plots" / "knockdown.png").stat().st_size > 1000
    genes = pd.read_csv(done / "genes.csv")
    assert not ((genes["perturbation"] == REAL) & (genes["gene"] == REAL)).any()  # what is hit itself is not ranked


@pytest.fixture(scope="module")
def experiment(make):
    context = make()
    return prepare(context, find=finder(context.config))


def test_no_held_out_cell_is_fitted_on_and_sides_are_as_named(experiment):
    guide = experiment.activations.obs["guide"].to_numpy()
    test = set(experiment.activations.test)
    for one in find_targets(experiment):
        fit = experiment.cells[np.concatenate(one.sides)]
        held = np.concatenate([experiment.cells[one.held], one.target_held])
        assert not test & set(fit)
        assert set(held) <= test
        assert set(guide[experiment.cells[one.sides.source]]) | set(guide[experiment.cells[one.held]]) == {"NT"}
        assert set(guide[experiment.cells[one.sides.target]]) | set(guide[one.target_held]) == {one.name}


def test_planted_recipes_come_back(experiment):
    """Target cells whose mean is that of the control moved by three features' recipe: those features are recruited first."""
    target = find_targets(experiment)[0]
    zbar = experiment.zbar[target.sides.source].mean(0)
    W = experiment.sae.W_dec.detach().double().numpy()
    strong = np.argsort(-np.abs(zbar) * np.linalg.norm(W, axis=1))[:3]
    theta = np.zeros(len(zbar))
    theta[strong] = [1.5, -0.8, 1.0]
    layer = np.array(experiment.layer.values)
    moved = layer.copy()
    at = np.searchsorted(experiment.layer.cells, experiment.cells[target.sides.target])
    source = np.asarray(experiment.layer[experiment.cells[target.sides.source]], np.float64).mean(0)
    moved[at] = source + (theta * zbar) @ W
    planted = replace(experiment, layer=CellRows(experiment.layer.cells, moved))
    found = solve(planted, experiment.context.config.objective, [target.sides], experiment.context.config.lam).theta
    assert set(np.argsort(-np.abs(found * zbar))[:3]) == set(strong)
    np.testing.assert_array_equal(np.sign(found[strong]), np.sign(theta[strong]))


def test_a_killed_null_goes_on_where_it_stopped(make, monkeypatch):
    from steerpipe.studies.knockdown import compute

    context = make("lambda.value=0.2")
    experiment = prepare(context, find=finder(context.config))
    bench, target = Bench(experiment), find_targets(experiment)[0]
    real, calls = compute.solve, []

    def stop(*words, **options):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(compute, "solve", stop)
    objective = context.config.objective
    with pytest.raises(KeyboardInterrupt):
        measure(bench, target, objective)
    found = measure(bench, target, objective)
    assert len(calls) == 6 + 15  # 20 fits, of which five were kept
    assert (found.scores["arm"] == "null").sum() == 19


def test_programmes_leave_the_perturbed_genes_out(experiment):
    some = [measure(Bench(experiment), one, experiment.context.config.objective) for one in find_targets(experiment)[:2]]
    weights = gene_weights(experiment, some[0])
    assert weights[experiment.genes.index(some[0].target.genes[0])] == 0
    assert weights.max() > 0
    found = programmes(experiment, [one.target.genes[0] for one in some])
    assert all(10 <= len(genes) <= 500 for genes in found.members)
    assert all(len(columns) >= 3 for columns in found.columns)
    assert found.own([some[0].target.genes[0]]).any()
    table = known(experiment, some, 1)
    for aurocs in table.values():
        assert set(aurocs) == set(table)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["knockdown.perturbations=[LYZZ]"], "unknown perturbation in knockdown.perturbations 'LYZZ'; did you mean 'LYZ'"),
        (["knockdown.block=[LYZ,CST4]"], "unknown perturbation in knockdown.block 'CST4'"),
        (["knockdown.perturbations=[LYZ]"], "CST3 of knockdown.block is not among the 1 perturbations"),
        (["knockdown.min_cells=400"], r"knockdown.min_cells=400 cells to fit on .* There are: CD8A \("),
        (["dataset.control=null"], "dataset.perturbation=COLUMN dataset.control=LABEL"),
        (["knockdown.regulons=/nowhere.csv"], "knockdown.regulons=/nowhere.csv is no file"),
        (["annotate.library=go_pb"], "unknown annotate.library 'go_pb'"),
        (["objective.mode=add"], "take multiply"),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(make, tmp_path, words, message):
    refused(study, make(*words), tmp_path, message)


def test_the_plan_counts_what_is_steered():
    config = compose("knockdown.perturbations=[a,b]", "knockdown.max_cells=10", "knockdown.held_cells=5",
                     "knockdown.n_permutations=7", "knockdown.n_random=2")  # fmt: skip
    line, numbers = plan.cost(config, PlannedBlock(ArchConfig(32, 6, 2, 48, 10), ("A",) * 10, 0.5, 2))
    assert numbers["plan/knockdown_blocks"] == (2 + 4) * 10 * 6 + 2 * (7 + 2 + 3) * 5 * 2
    assert numbers["plan/knockdown_seconds"] == 0.5 * numbers["plan/knockdown_blocks"]
    assert "16 exact refits" in line


def test_de_scores_by_hand():
    real = RealChange(np.array([1, -1, 1, 0, 0, 0]), np.zeros(6), np.array([True] * 5 + [False]))
    found = de_scores(np.array([3.0, -2.0, -0.5, 1.0, 0.1, 99.0]), real)
    # ranked: DE, DE, not, DE, not; precision at the hits 1, 1, 3/4
    assert found == pytest.approx({"auprc": (1 + 1 + 0.75) / 3, "overlap": 2 / 3, "sign": 2 / 3})
    nothing = de_scores(np.zeros(6), real)
    assert nothing["auprc"] == pytest.approx(3 / 5)  # all ties: the share of DE genes
    assert nothing["sign"] == 0
    assert np.isnan(de_scores(np.ones(6), real._replace(signs=np.zeros(6, int)))["auprc"])


def test_noise_finds_de_genes_no_better_than_chance():
    rng = np.random.default_rng(0)
    signs = np.zeros(300, int)
    signs[:60] = rng.choice([-1, 1], 60)
    real = RealChange(signs, signs.astype(float), np.ones(300, bool))
    found = pd.DataFrame([de_scores(rng.standard_normal(300), real) for _ in range(200)])
    assert found["auprc"].mean() == pytest.approx(0.2, abs=0.03)
    assert found["overlap"].mean() == pytest.approx(0.2, abs=0.03)
    assert found["sign"].mean() == pytest.approx(0.5, abs=0.03)
    perfect = de_scores(signs + 0.01 * rng.standard_normal(300), real)
    assert perfect == pytest.approx({"auprc": 1, "overlap": 1, "sign": 1})


def test_real_change_of_two_halves_is_nothing():
    rng = np.random.default_rng(1)
    cells = rng.poisson(2.0, (200, 80)).astype(float)
    shifted = cells[100:].copy()
    shifted[:, :5] += 3
    every = np.ones(80, bool)
    assert (real_change(cells[:100], cells[100:], every).signs != 0).sum() <= 2
    assert (real_change(cells[:100], shifted, every).signs[:5] == 1).all()


def test_blocks_and_names_dealt_anew():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((12, 40))
    rows[:4] += 2 * rng.standard_normal(40)
    block = np.arange(12) < 4
    assert block_test(cosines(rows), block, 999, rng).p < 0.01
    nothing = [block_test(cosines(rng.standard_normal((12, 40))), block, 99, rng).p for _ in range(100)]
    assert np.mean(np.array(nothing) <= 0.1) < 0.2
    assert (cosines(np.vstack([np.zeros(3), np.ones(3)]))[0] == 0).all()
    names = [f"p{i}" for i in range(8)]
    table = {a: {b: 0.9 if a == b else 0.5 for b in names} for a in names}
    assert names_dealt(table, 999, rng) == (pytest.approx(0.9), pytest.approx(0.001))
    flat = {a: dict.fromkeys(names, 0.5) for a in names}
    assert names_dealt(flat, 99, rng)[1] == 1


def test_programme_auroc_by_hand():
    weights = np.array([3.0, 0.0, 1.0, 0.0])
    terms = [np.array([0, 1]), np.array([2]), np.array([3]), np.array([], int)]
    # means 1.5, 1, 0, 0: of the pairs (own, other) 1.5 > 1, 1.5 > 0, 0 < 1, 0 = 0
    assert programme_auroc(weights, terms, np.array([True, False, True, False])) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert np.isnan(programme_auroc(weights, terms, np.zeros(4, bool)))
    assert np.isnan(programme_auroc(np.zeros(4), terms, np.array([True, False, True, False])))
