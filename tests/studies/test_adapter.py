"""`steer adapter`: what is scored was never trained on, what is nothing stays nothing, and real pieces end to end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.errors import SteerError
from steerpipe.models.aido_cell import ArchConfig
from steerpipe.pipeline.experiment import prepare
from steerpipe.studies.adapter import plan, study
from steerpipe.studies.adapter.baselines import baselines
from steerpipe.studies.adapter.genes import gene_features
from steerpipe.studies.adapter.inverse import find_pairs, train_fold
from steerpipe.studies.adapter.predict import Bench, drawn, usual
from steerpipe.studies.adapter.targets import Target, find_targets, finder, left_out
from steerpipe.studies.adapter.training import State
from steerpipe.studies.labelled import labels_finder

from ..made import maker, refused

NAMES = {"CD14+ Monocyte": "LYZ", "Dendritic": "CST3", "CD19+ B": "CD79A", "CD56+ NK": "NKG7"}
HELD = "CD56+ NK"


@pytest.fixture(scope="module")
def file(cells, tmp_path_factory):
    """T cells as control; every other type as the perturbation of a gene of its own."""
    labels = cells.obs["bulk_labels"].astype(str)
    some = cells.copy()
    some.obs["guide"] = labels.map(NAMES).fillna("NT").to_numpy()
    path = tmp_path_factory.mktemp("adapter") / "cells.h5ad"
    some.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def make(file, tiny_folder, tmp_path_factory):
    words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "sae.tokens=20000", "dataset=h5ad"]
    words += ["dataset.max_cells=null", f"dataset.path={file}", "dataset.label=bulk_labels", "dataset.test_share=0.4"]
    words += ["annotate.min_size=3", "lambda.value=0.1", "adapter.max_labels=4", "adapter.min_cells=20"]
    return maker(tmp_path_factory.mktemp("study"), *words)


@pytest.fixture(scope="module")
def perturbed(make):
    words = ["dataset.perturbation=guide", "dataset.control=NT", f"dataset.held=[{NAMES[HELD]}]", "adapter=perturbation"]
    return lambda *more: make(*words, *more)


@pytest.fixture(scope="module")
def inverse(make):
    context = make("adapter.n_permutations=19", "adapter.steps=150", "adapter.unrolled=16", "adapter.scored_pairs=1")
    command.main("adapter", context, context.run)
    return context


def test_the_exact_lasso_bounds_the_networks_and_all_are_told_from_noise(inverse):
    rows = pd.read_csv(inverse.run.path / "pairs.csv")
    assert rows["excess"].min() > -1e-4  # nothing is below the certified optimum
    assert (rows.loc[rows["arm"] == "exact", "excess"].abs() < 1e-6).all()
    assert (rows.loc[rows["arm"] == "exact", "overlap"] == 1).all()
    table = pd.read_csv(inverse.run.path / "summary.csv").set_index("arm")
    assert table.loc["exact", "gap"] > 0.2
    assert abs(table["gap_null"]).max() < 0.2  # dealt cells: no gap is closed, by none of the arms
    assert table.loc["lista", "gap"] > 0.15
    assert table.loc["lista", "excess"] < table.loc["linear", "excess"]
    assert table.loc["shuffled linear", "gap"] < table.loc["linear", "gap"]
    head = pd.read_csv(inverse.run.path / "headline.csv")
    assert set(head["space"]) == {"layer", "final", "expression"}
    assert (inverse.run.path / "plots" / "inverse.png").stat().st_size > 1000
    assert "Milliseconds a target" in (inverse.run.path / "conclusion.txt").read_text()


def test_no_network_was_trained_on_a_cell_of_the_labels_that_it_is_scored_on(inverse, monkeypatch):
    experiment = prepare(inverse, find=labels_finder(inverse.config, "adapter"))
    pairs, folds, fit = find_pairs(experiment)
    labels = experiment.activations.obs["bulk_labels"].to_numpy()
    test = set(experiment.activations.test)
    from steerpipe.studies.adapter import inverse as module

    seen = {}
    real = module.drawn

    def watched(state, some, *rest, **more):
        seen[n] = some
        return real(state, some, *rest, **more)

    monkeypatch.setattr(module, "drawn", watched)
    for n in set(folds.values()):
        train_fold(experiment, State(experiment), n, folds, fit)
    for pair in pairs:
        trained_on = np.concatenate([experiment.cells[rows] for rows in seen[pair.fold].values()])
        assert pair.target not in set(labels[trained_on])
        assert not test & set(trained_on)
        assert set(experiment.cells[pair.held]) | set(pair.target_held) <= test
        assert set(labels[experiment.cells[pair.sides.target]]) == {pair.target} == set(labels[pair.target_held])


def test_through_the_model_goes_on_from_the_layer(make):
    words = ["adapter.networks=[linear]", "adapter.folds=2", "adapter.steps=20"]
    context = make(*words, "adapter.through=model", "adapter.model_steps=3")
    experiment = prepare(context, find=labels_finder(context.config, "adapter"))
    _, folds, fit = find_pairs(experiment)
    later = train_fold(experiment, State(experiment), 0, folds, fit).adapters["linear"]
    plain = make(*words)
    again = prepare(plain, find=labels_finder(plain.config, "adapter"))
    before = train_fold(again, State(again), 0, folds, fit).adapters["linear"]
    moved = [(a - b).abs().max().item() for a, b in zip(later.parameters(), before.parameters(), strict=True)]
    assert 0 < max(moved) < 0.1


@pytest.fixture(scope="module")
def predicted(perturbed):
    pytest.importorskip("cell_eval")
    context = perturbed("adapter.n_shuffled=2", "adapter.steps=60", "adapter.folds=3")
    command.main("adapter", context, context.run)
    return context


def test_every_arm_is_in_the_table_and_who_knows_the_cells_is_best(predicted):
    table = pd.read_csv(predicted.run.path / "summary.csv").set_index("arm")
    simple = ["no change", "control mean", "perturbation mean", "ridge", "kNN"]
    assert [*simple, "linear", "mlp", "lista", "dense vector", "fitted recipe", "other cells"] == list(table.index)
    assert (table["targets"] == 4).all()
    assert table["wmse"].idxmin() == table["mae"].idxmin() == "other cells"  # what is in reach
    assert table.loc["other cells", "discrimination_score_l1"] == 1
    scores = pd.read_csv(predicted.run.path / "scores.csv")
    assert set(scores.loc[scores["unseen"], "perturbation"]) == {NAMES[HELD]}
    assert {"pearson_delta", "mae", "discrimination_score_l1", "overlap_at_N", "wmse"} <= set(scores)
    features = pd.read_csv(predicted.run.path / "features.csv")
    assert features.loc[features["arm"] == "lista", "lost"].notna().any()
    page = (predicted.run.path / "perturbations.html").read_text()
    assert all(f'<section id="{name}">' in page for name in NAMES.values())
    assert page.count("which neither model nor dictionary saw") == 1
    assert page.count("recipe by lista") == 4
    assert "http" not in page  # it needs no network
    said = (predicted.run.path / "conclusion.txt").read_text()
    assert "4 targets left out, 1 of them seen by neither" in said
    assert "the mean" in said
    assert (predicted.run.path / "plots" / "prediction.png").stat().st_size > 1000


def test_a_perturbation_that_is_held_out_is_in_no_training(predicted):
    """Neither of the dictionary nor of an adapter; that of the model is tests/pretraining's."""
    experiment = prepare(predicted, find=finder(predicted.config))
    guide = experiment.activations.obs["guide"].to_numpy()
    assert NAMES[HELD] not in set(guide[~np.isin(np.arange(len(guide)), experiment.activations.test)])
    targets = find_targets(experiment)
    bench, inputs = Bench(experiment, targets), np.zeros((len(targets), 1))
    test = set(experiment.activations.test)
    for training, scored in left_out(targets, "perturbation"):
        assert not {targets[i].genes for i in training} & {targets[i].genes for i in scored}
        assert NAMES[HELD] not in {targets[i].name for i in training}
        for i in training:
            assert not test & (set(targets[i].known) | set(experiment.cells[targets[i].control]))
        for i in scored:
            assert set(targets[i].scored) <= test
            assert not set(targets[i].scored) & set(targets[i].known)
        tasks = drawn(bench, training, inputs, 1.0, 200)(np.random.default_rng(0))
        length, _ = usual(bench, training)
        assert float(tasks.gaps.norm(dim=1).mean()) == pytest.approx(length, rel=0.35)


def one(name: str, fold: int, context: str = "") -> Target:
    none = np.zeros(0, int)
    return Target(name, tuple(name.split("+")), context, fold, none, none, none, none, none)


def test_who_trains_for_whom_by_hand():
    targets = [one("A", 0), one("B", 1), one("A+B", 1), one("C", 0), one("D", 1), one("E", -1), one("A+C", 0)]
    # E is held out of everything; what shares a gene with a scored one is out of its training
    parts = {tuple(scored): training for training, scored in left_out(targets, "perturbation")}
    assert parts[5,] == [0, 1, 2, 3, 4, 6]
    assert parts[0, 3, 6] == [1, 4]  # not A+B, which has A
    combination = {tuple(scored): training for training, scored in left_out(targets, "combination")}
    assert combination == {(2,): [0, 1, 3, 4, 6], (6,): [0, 1, 2, 3, 4]}


def test_baselines_by_hand():
    targets = [one("A", 0), one("B", 0), one("C", 0), one("A+B", 1)]
    known = np.array([[1.0, 0], [0, 2], [4, 4], [9, 9]])
    settings = compose("adapter.neighbours=1").adapter
    inputs = np.array([[1.0, 0], [0, 1], [5, 5], [4.0, 5]])
    found = baselines(targets, [0, 1, 2], [3], known, inputs, settings)
    np.testing.assert_allclose(found["perturbation mean"], [[5 / 3, 2]])
    np.testing.assert_allclose(found["additive"], [[1, 2]])
    np.testing.assert_allclose(found["kNN"], [[4, 4]])
    assert not found["no change"].any()
    assert "additive" not in baselines(targets[:3], [0, 1], [2], known, inputs, settings)


def test_gene_features_are_of_equal_weight_and_unknown_genes_have_none(predicted):
    experiment = prepare(predicted, find=finder(predicted.config))
    control = experiment.counts.mean(0)
    table, names = gene_features(experiment, ["LYZ", "CD79A", "no gene"], control)
    assert [name.split()[0] for name in names] == ["embedding", "go", "expression"]
    assert not table[2].any()
    widths = [int(name.split("(")[1].split()[0]) for name in names]
    for part in np.split(table[:2], np.cumsum(widths)[:-1], axis=1):
        length = np.linalg.norm(part, axis=1)
        assert length[length > 0].mean() == pytest.approx(1)


PERTURBED = ["adapter=perturbation", "dataset.perturbation=guide", "dataset.control=NT"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter.labels=[CD14+ Monocite,CD19+ B]"], "unknown label in adapter.labels 'CD14\\+ Monocite'; did you mean"),
        (["adapter.min_cells=400"], "adapter needs two labels with adapter.min_cells=400"),
        (["adapter=perturbation"], "adapter=perturbation needs perturbations: take dataset=papalexi"),
        (["objective=expression"], "adapters minimise objective=latent"),
        (["objective.mode=add"], "take multiply"),
        (
            [*PERTURBED, "adapter.split=combination"],
            "no double",
        ),
        (
            [*PERTURBED, "adapter.regulons=/no.csv"],
            "adapter.regulons=/no.csv",
        ),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(make, tmp_path, words, message):
    refused(study, make(*words), tmp_path, message)


@pytest.mark.parametrize("word", ["adapter.networks=[lstm]", "adapter.folds=1", "adapter.split=cell", "adapter.networks=[]"])
def test_settings_that_make_no_sense_are_refused(word):
    with pytest.raises(SteerError, match=r"adapter\.(networks|folds|split)"):
        compose(word)


def test_without_cell_eval_a_line_says_what_to_install(perturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cell_eval", None)
    refused(study, perturbed(), tmp_path, "pip install 'steerpipe\\[perturbation\\]'")


def test_the_plan_counts_trainings_and_what_is_steered():
    block = PlannedBlock(ArchConfig(32, 6, 2, 48, 10), ("A",) * 10, 0.5, 2)
    words = [
        "adapter.folds=5",
        "adapter.max_labels=8",
        "adapter.max_cells=10",
        "adapter.held_cells=5",
        "adapter.scored_pairs=2",
    ]
    _, numbers = plan.cost(compose(*words), block)
    assert numbers["plan/adapter_trainings"] == 5 * 5
    assert numbers["plan/adapter_blocks"] == 8 * 10 * 6 + 2 * 6 * 5 * 2
    words += ["adapter=perturbation", "adapter.n_shuffled=3", "adapter.max_perturbations=7"]
    line, numbers = plan.cost(compose(*words), block)
    assert numbers["plan/adapter_trainings"] == 5 * 3 * 4
    assert numbers["plan/adapter_blocks"] == (7 + 4) * 10 * 6 + 7 * (2 + 3 * (1 + 3 + 3)) * 5 * 2
    assert "60 trainings" in line
