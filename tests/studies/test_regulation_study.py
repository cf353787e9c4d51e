"""`steer regulation` end to end, on a tiny model and regulons of its own genes."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.errors import SteerError
from steerpipe.models.aido_cell import ArchConfig
from steerpipe.models.checkpoints import save_model
from steerpipe.store import Store
from steerpipe.studies.regulation import arms, effects, plan, study

from ..conftest import random_model
from ..made import Made, a_run

SMALL = [
    "debug=small", "model=local", "layer=1", "dataset.max_cells=80", "sae.tokens=20000", "model.batch_size=20",
    "regulation.max_features=2", "regulation.max_targets=6", "regulation.alphas=[-2,5]",
]  # fmt: skip


@pytest.fixture(scope="module")
def network(tiny_genes, cells, tmp_path_factory):
    """A CSV of four TFs with twelve targets each, drawn among the genes that the dataset has."""
    have = [gene for gene in tiny_genes if gene in set(cells.var_names)]
    rng = np.random.default_rng(0)
    genes = rng.permutation(have)
    rows = [(tf, gene, rng.choice([-1, 1])) for tf in genes[:4] for gene in rng.choice(genes[4:], 12, replace=False)]
    path = tmp_path_factory.mktemp("network") / "net.csv"
    pd.DataFrame(rows, columns=["source", "target", "weight"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def make(tiny_folder, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regulation")

    def make(*overrides, model=tiny_folder):
        run = a_run(folder / f"run{len(list(folder.glob('run*')))}")
        words = [*SMALL, f"model.path={model}", f"regulation.regulons={network}", *overrides]
        return Made(compose(*words), Store(folder / "store"), run=run)

    return make


@pytest.fixture(scope="module")
def done(make):
    context = make()
    command.main("regulation", context, context.run)
    return context.run.path


def test_tables_figure_and_conclusion(done):
    tfs, pairs, summary = (pd.read_csv(done / f"{name}.csv") for name in ("tfs", "pairs", "summary"))
    untested = pd.read_csv(done / "untested.csv")
    tested = tfs[tfs["kind"] == "TF"]
    assert len(tested) + len(untested) == 4
    assert len(tested) >= 1
    assert set(tfs["kind"]) == {"TF", "random features", "names dealt anew"}
    assert (tested["targets"] == 12).all()
    assert (tested["reversed"] == 6).all()
    assert tfs[["asymmetry_p", "auroc"]].stack().between(0, 1).all()
    assert (pairs[pairs["kind"] == "TF"].groupby("tf")["reverse"].count() == 6).all()
    assert (tested["forward"] > 0).all()
    assert (summary.set_index("kind").loc["TF", "tested"]) == len(tested)
    lines = (done / "conclusion.txt").read_text().splitlines()
    assert lines[0].startswith(f"{tested['regulates'].sum()} of {len(tested)} TFs")
    assert (done / "plots" / "regulation.png").stat().st_size > 1000
    assert (done / "plots" / "regulation.csv").is_file()
    assert json.loads((done / "metrics.json").read_text())["TF/tested"] == len(tested)


def test_one_tf_alone_has_the_effects_that_it_has_among_all(done, make):
    tf = pd.read_csv(done / "tfs.csv").query("kind == 'TF'")["tf"].iloc[0]
    context = make(f"regulation.tfs=[{tf}]")
    command.main("regulation", context, context.run)
    columns = ["tf", "forward", "reverse", "auroc", "asymmetry_p"]
    one, every = (pd.read_csv(path / "tfs.csv").query("kind == 'TF'")[columns] for path in (context.run.path, done))
    pd.testing.assert_frame_equal(one.reset_index(drop=True), every[every["tf"] == tf].reset_index(drop=True), rtol=1e-4)


def test_only_held_out_cells_are_steered_and_others_drawn_from(make):
    panel = study.ask(make())
    assert len(panel.cells) == 3
    assert set(panel.cells) <= set(panel.given.source.test)
    for tf, features in panel.features.items():
        column = next(one.column for one in panel.chosen if one.tf == tf)
        assert len(features) <= 2
        assert panel.members[tf][features].all()
        assert (np.diff(panel.M[features, column]) <= 0).all()


def test_a_killed_run_resumes_at_the_tf(make, monkeypatch):
    context, measured, measure = make("regulation.seed=5"), [], arms.measure

    def stop_at_the_third(*args):
        measured.append(args[3].tf)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(arms, "measure", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        command.main("regulation", context, context.run)
    first, measured[:] = measured[:2], ["", "", "", ""]
    kept = {p.stem for p in context.store.root.glob("regulation/*.partial/*.npz")}
    again = make("regulation.seed=5")
    command.main("regulation", again, again.run)
    assert set(first) >= kept
    assert not set(measured) & kept


def test_where_no_token_sees_another_nothing_is_found(tiny_genes, make, tmp_path):
    """Attention of the blocks above the layer writes nothing: whatever is done to one token stays there."""
    deaf = random_model(tiny_genes)
    with torch.no_grad():
        deaf.blocks[2].attention["output"]["dense"].weight.zero_()
        if deaf.blocks[2].attention["output"]["dense"].bias is not None:
            deaf.blocks[2].attention["output"]["dense"].bias.zero_()
    save_model(deaf, tmp_path / "deaf", dtype=torch.float32)
    context = make("regulation.max_cells=4", model=tmp_path / "deaf")
    command.main("regulation", context, context.run)
    tfs = pd.read_csv(context.run.path / "tfs.csv")
    assert (tfs[["forward", "reverse"]] == 0).all(axis=None)
    assert (tfs[["asymmetry_p", "auroc_p"]] == 1).all(axis=None)
    assert not tfs["regulates"].any()
    assert (context.run.path / "conclusion.txt").read_text().endswith("no evidence that the model encodes regulation here.\n")


def test_steering_is_the_edit_of_one_token(make):
    """F of the study against run_edit, which steers a list of genes."""
    from steerpipe.interpret.dose import single_feature
    from steerpipe.steering.intervene import CachedCells, run_edit

    panel = study.ask(make())
    cells = study.load_steered_cells(panel)
    sae = panel.given.dictionary.sae
    codes = effects.gene_codes(sae, cells)
    one = next(r for r in panel.chosen if len(panel.features[r.tf]))
    feature = int(panel.features[one.tf][0])
    code = effects.codes_of(codes, feature, np.array([one.column]))[:, 0]
    found = effects.forward_effect(cells, one.column, code, sae.W_dec[feature].detach(), [5.0])[0]
    model = study.load_steered_model(panel.context.config)
    steered = cells.valid[one.column : one.column + 1]
    cached = CachedCells(model, 1, cells.streams.numpy(), cells.valid, steered=steered)
    rows = np.flatnonzero(code)
    assert len(rows)
    change = run_edit(cached, rows, single_feature(sae, feature, 5.0)).expression - run_edit(cached, rows, None).expression
    np.testing.assert_allclose(found, change.mean(0), atol=2e-5)
    assert np.abs(change).max() > 1e-3


def test_the_plan_bounds_what_is_paid(make, caplog):
    context = make("regulation.max_cells=2")
    panel = study.ask(context)
    text, numbers = plan.cost(context.config, PlannedBlock(ArchConfig(8, 4, 1, 8, 10), tuple(panel.given.source.genes), 1.0, 3))
    trials = 2 * 2 * 2
    assert f"4 TFs, at the most {trials * 4 * 2:,} passes that read every gene and {trials * 4 * 6 * 3:,} that read one" in text
    assert numbers["plan/regulation_passes"] == trials * 4 * 2 + trials * 4 * 6 * 3
    with caplog.at_level(logging.INFO):
        command.main("regulation", context, context.run)
    assert any("passes that read every gene" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["regulation.tfs=[NOSUCHTF]"], "unknown TF in regulation.tfs .* 'NOSUCHTF'"),
        (["regulation.min_targets=13"], "no TF has regulation.min_targets=13 targets among the dataset's genes"),
        (["regulation.regulons=no.csv"], "no.csv is no file"),
        (["model.readout=masked"], "use model.readout=reconstruction model.tokens=all"),
        (["dataset.test_share=0"], "regulation steers held-out cells, and there are none; set dataset.test_share"),
    ],
)
def test_mistakes(make, words, message):
    with pytest.raises(SteerError, match=message) as error:
        study.ask(make(*words))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("regulation.push=any", "Allowed: matched, own"),
        ("regulation.alphas=[1]", "needs a value other than 1"),
        ("regulation.max_cells=0", "regulation.max_cells=0 must be greater than 0"),
        ("regulation.n_random=-1", "must be 0 or more"),
        ("regulation.q=1", "strictly between 0 and 1"),
    ],
)
def test_settings_that_are_not_allowed(word, message):
    with pytest.raises(SteerError, match=message):
        compose(word)
