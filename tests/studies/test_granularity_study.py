"""`steer granularity` end to end, on a tiny model with random weights: pairs of labels, and a programme."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.models.aido_cell import ArchConfig
from steerpipe.pipeline.experiment import prepare
from steerpipe.studies.granularity import plan, study
from steerpipe.studies.granularity.targets import find_targets
from steerpipe.studies.labelled import labels_finder

from ..made import maker, refused

WORDS = ["debug=small", "model=local", "layer=1", "dataset.max_cells=200", "sae.tokens=20000", "annotate.min_size=3"]
LABELS = ["dataset.test_share=0.4"]
PROGRAM = "granularity.programs=['go_bp:T cell activation involved in immune response']"


@pytest.fixture(scope="module")
def make(tiny_folder, tmp_path_factory):
    return maker(tmp_path_factory.mktemp("granularity"), *WORDS, *LABELS, f"model.path={tiny_folder}", PROGRAM)


@pytest.fixture(scope="module")
def done(make):
    context = make()
    command.main("granularity", context, context.run)
    return context.run.path


def test_tables_figure_and_conclusion(done):
    targets, units = (pd.read_csv(done / f"{name}.csv") for name in ("targets", "units"))
    assert len(targets) == 3 * 2 + 1
    assert targets["kind"].tolist().count("programme") == 1
    for _, some in units.groupby("target"):
        table = some.set_index("unit")
        assert {"best feature", "whole path", "dense vector", "1 features"} <= set(table.index)
        assert table["p"].between(0, 1).all()
        assert np.isfinite(table.loc[["best feature", "dense vector"], "expression_gap"]).all()
        assert table["off_target"].ge(0).all()
        # the same as the first of the path only where that is the best alone; both are one feature
        assert table.loc["best feature", "n"] == table.loc["1 features", "n"] == 1
    random = pd.read_csv(done / "random.csv")
    assert random.groupby(["target", "unit", "n"])["draw"].nunique().max() == 2
    said = (done / "conclusion.txt").read_text()
    assert "6 targets (pairs): " in said
    assert "Rule: nothing, if" in said
    assert (done / "plots" / "granularity.png").stat().st_size > 1000


def test_targets_share_no_cell_and_keep_the_split(make):
    context = make()
    experiment = prepare(context, find=labels_finder(context.config, "granularity"))
    split, labels = experiment.split, experiment.activations.obs["bulk_labels"].to_numpy()
    for target in find_targets(experiment):
        source, goal, held = (experiment.cells[rows] for rows in (*target.sides, target.held))
        assert set(source) | set(goal) <= set(split.source_fit)
        assert set(held) | set(target.target_held) <= set(split.source_held)
        assert not set(held) & set(target.target_held)
        assert not set(source) & set(goal)
        if target.kind == "pair":
            a, b = target.name.split(" -> ")
            assert set(labels[source]) | set(labels[held]) == {a}
            assert set(labels[goal]) | set(labels[target.target_held]) == {b}
            assert target.others.shape[0] == 1
        else:
            counts = [pd.Series(labels[cells]).value_counts().to_dict() for cells in (source, goal)]
            assert counts[0] == counts[1]  # the same labels on both sides
            assert target.others.shape[0] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["granularity.labels=[Dendritic,Dendrites]"], "unknown label in granularity.labels 'Dendrites'"),
        (["granularity.min_cells=190"], r"two labels with granularity.min_cells=190 cells.* There are: "),
        (["granularity.programs=['go_bp:no such thing']"], "granularity.programs"),
        (["objective.mode=add"], "take multiply"),
        (["objective.tokens=all"], "objective.tokens=genes"),
        (["dataset.label=null", "contrast.column=bulk_labels"], "set dataset.label"),
        (["annotate.library=go_pb"], "unknown annotate.library 'go_pb'; did you mean 'go_bp'"),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(make, tmp_path, words, message):
    refused(study, make(*words), tmp_path, message)


def test_the_plan_counts_what_is_steered():
    config = compose("granularity.labels=[a,b,c]", "granularity.max_cells=10", "granularity.held_cells=5")
    line, numbers = plan.cost(config, PlannedBlock(ArchConfig(32, 6, 2, 48, 10), ("A",) * 10, 0.5, 2))
    assert numbers["plan/granularity_targets"] == 6
    assert numbers["plan/granularity_blocks"] == 30 * 6 + 8 * 6 * 5 * 2
    assert numbers["plan/granularity_seconds"] == 0.5 * numbers["plan/granularity_blocks"]
    assert line.startswith("targets   6")
