"""`steer circuits` on a tiny model of AIDO.Cell's architecture with random weights."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study
from steerpipe.errors import SteerError
from steerpipe.models.aido_cell import ArchConfig as AidoArch
from steerpipe.models.preprocess import model_input
from steerpipe.pipeline.activations import load_cells
from steerpipe.store import Store
from steerpipe.studies.circuits import ablation, compute
from steerpipe.studies.circuits.network import HEAD, LayerCodes
from steerpipe.studies.circuits.plan import circuit_plan

from ..made import Made, a_run


@pytest.fixture(scope="module")
def context(tiny_folder, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("circuits")

    def make(*overrides, name="run"):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "dataset.max_cells=200"]
        return Made(compose(*words, *overrides), Store(outputs / "store"), run=a_run(outputs / name))

    return make


@pytest.fixture(scope="module")
def plain(context):
    made = context("circuits.dose=true", name="plain")
    study.main("circuits", made, made.run)
    return made


def test_tables_and_figures(plain):
    folder = plain.run.path
    pairs = pd.read_csv(folder / "pairs.csv")
    assert list(zip(pairs["layer"], pairs["to"], strict=True)) == [(0, "layer 1"), (0, "head"), (1, "head")]
    assert (pairs["pairs"] == pairs["sources"] * pairs["targets"]).all()
    assert (pairs[["fdr_direction", "fdr_matched"]] <= 0.05).all(axis=None)
    found = pd.read_csv(folder / "edges.csv") if (folder / "edges.csv").is_file() else pd.DataFrame(columns=["layer", "to"])
    assert len(found) == pairs["edges"].sum()
    strong = pd.read_csv(folder / "strongest.csv")
    between = strong[strong["to"] != "head"]
    assert between["cosine"].abs().max() <= 1 + 1e-5
    assert strong.loc[strong["to"] == "head", "cosine"].isna().all()
    tested = pd.read_csv(folder / "attribution.csv")
    assert len(tested) == 3 * 4
    head = pd.read_csv(folder / "head.csv")
    assert len(head) == 6
    assert (head["q"].dropna() <= 1).all()
    assert len((folder / "conclusion.txt").read_text().splitlines()) >= 3
    degree = pd.read_csv(folder / "degrees.csv")
    assert degree["degree"].sum() == pairs["edges"].sum()
    assert (folder / "plots" / "degrees.png").stat().st_size > 1000
    graph = nx.read_graphml(folder / "circuit.graphml")
    assert graph.number_of_edges() == len(found)


def test_responses_are_those_of_the_whole_model(plain):
    """From the counts on, with the code taken away by hand at one layer: the same changes."""

    circuit = compute.prepared(plain)
    network, model = circuit.network, circuit.network.model
    source = int(pd.read_csv(plain.run.path / "degrees.csv")["source"][0])
    codes, clean = LayerCodes(network, 0), network.clean(0)
    trial = ablation.trials(network, 0, source, codes.activity(), n_random=0, dose=False, seed=0)[0]
    found = ablation.respond(network, 0, codes, trial, clean)
    values = model_input(load_cells(plain.config, model.genes)[circuit.cells], model.arch.depth)
    sae, valid = network.saes[0], network.valid

    def forward(switched):
        x = model.stream(values, 0)
        z = sae.encode(x[:, valid]).dense(sae.n_features)
        lost = z[..., source, None] * sae.W_dec[source]
        if switched:
            x = x.index_add(1, valid, -lost)
        y = model.blocks[1](x)
        later = network.saes[1].encode(y[:, valid]).dense(network.saes[1].n_features).mean(1)
        return later, model.forward_from(1, y, valid).expression

    with torch.no_grad():
        before, after = forward(False), forward(True)
    for level, b, a in zip((1, HEAD), before, after, strict=True):
        np.testing.assert_allclose(found.changes[level], (a - b)[found.cells], atol=2e-5)


def test_a_killed_run_goes_on_and_parts_join_to_the_same(plain, context, monkeypatch):
    whole = compute.prepared(plain)
    sources = np.array([1, 2, 3])
    wanted = compute.responses(whole, 0, sources)
    made = context("circuits.dose=true", "circuits.n_random=2", name="killed")
    done = []
    real = ablation.respond

    def stop(network, layer, codes, trial, clean):
        if trial.feature == 3 and trial.kind == "feature" and not done:
            done.append(1)
            raise KeyboardInterrupt
        return real(network, layer, codes, trial, clean)

    monkeypatch.setattr(ablation, "respond", stop)
    circuit = compute.prepared(made)
    with pytest.raises(KeyboardInterrupt):
        compute.responses(circuit, 0, sources)
    partial = next((made.store.root / "circuit").glob("*.partial"))
    assert sorted(file.name for file in partial.glob("source_*.npz")) == ["source_1.npz", "source_2.npz"]
    times = {file: file.stat().st_mtime_ns for file in partial.glob("source_*.npz")}
    again = compute.responses(circuit, 0, sources)
    assert {file.name: (again.folder / file.name).stat().st_mtime_ns for file in times} == {
        file.name: time for file, time in times.items()
    }
    for a, b in ((next(again.of(s)), next(wanted.of(s))) for s in sources):
        assert a[0][:3] == b[0][:3]
        np.testing.assert_array_equal(a[1].changes[HEAD], b[1].changes[HEAD])


def test_parts_join(context):
    words = ["circuits.seed=5", "circuits.n_random=0", "circuits.layers=[1]", "circuits.parts=2"]
    for part in (0, 1):
        made = context(*words, f"circuits.part={part}", name=f"part{part}")
        study.main("circuits", made, made.run)
        assert not (made.run.path / "pairs.csv").is_file()
    joined, alone = context(*words, name="joined"), context(*words[:-1], "reuse=never", name="alone")
    study.main("circuits", joined, joined.run)
    built = [a for a in joined.store.used if a.stage == "circuit"]
    assert built[0].seconds < 5
    assert (joined.run.path / "pairs.csv").read_text()
    study.main("circuits", alone, alone.run)
    assert (joined.run.path / "pairs.csv").read_text() == (alone.run.path / "pairs.csv").read_text()


def test_a_recipe(context):
    made = context("circuits.recipe=latent", "lambda.value=0.3", "circuits.fdr=0.9", name="recipe")
    study.main("circuits", made, made.run)
    circuit = compute.prepared(made)
    on = np.flatnonzero(circuit.recipe.theta)
    degree = pd.read_csv(made.run.path / "degrees.csv")
    assert set(degree.loc[degree["layer"] == 0, "source"]) <= set(on)
    assert set(circuit.cells) <= set(circuit.experiment.split.source_held)
    assert set(circuit.cells) & set(circuit.experiment.split.source_fit) == set()
    shares = pd.read_csv(made.run.path / "mediation.csv")
    assert "recipe" in set(shares["what"])
    graph = nx.read_graphml(made.run.path / "circuit.graphml")
    theta = {data["name"]: data["theta"] for _, data in graph.nodes(data=True) if "theta" in data}
    assert theta
    for name, value in theta.items():
        assert value == pytest.approx(circuit.recipe.theta[int(name)])
    assert (made.run.path / "plots" / "circuit.svg").stat().st_size > 1000
    behind = pd.read_csv(made.run.path / "plots" / "circuit.csv").groupby("part").size()
    assert behind["node"] <= 40
    assert set(behind.index) == {"node", "edge"}


def test_a_model_without_a_head(context, tiny_genes, tmp_path):
    """Edges between layers alone: no genes, no shares."""
    from steerpipe.models.aido_cell import AidoCell
    from steerpipe.models.checkpoints import save_model

    from ..conftest import random_model

    whole = random_model(tiny_genes)
    bare = AidoCell(whole.arch, tiny_genes, head=False)
    bare.load_state_dict({name: p for name, p in whole.state_dict().items() if not name.startswith("cls")})
    save_model(bare, tmp_path / "bare", dtype=torch.float32)
    made = context(f"model.path={tmp_path / 'bare'}", name="bare")
    study.main("circuits", made, made.run)
    pairs = pd.read_csv(made.run.path / "pairs.csv")
    assert list(zip(pairs["layer"], pairs["to"], strict=True)) == [(0, "layer 1")]
    assert not (made.run.path / "mediation.csv").exists()
    assert not (made.run.path / "head.csv").exists()
    with pytest.raises(SteerError, match="name two layers"):
        compute.check(context(f"model.path={tmp_path / 'bare'}", "circuits.layers=[1]", name="bare1").config)


def test_the_plan_counts_what_is_run(context, monkeypatch):
    made = context("circuits.n_targets=0", "circuits.n_mediated=0", name="plan")
    arch = AidoArch(32, 3, 2, 48, 240)
    cost = circuit_plan(made.config, PlannedBlock(arch, tuple(f"g{i}" for i in range(200)), 1e-3, 1))
    ran = []
    circuit = compute.prepared(made)
    model = circuit.network.model
    for block in model.blocks:
        forward = block.forward
        monkeypatch.setattr(block, "forward", lambda x, read=None, f=forward: ran.append(len(x)) or f(x, read))
    for layer in circuit.layers:
        firing = (LayerCodes(circuit.network, layer).activity() > 0).all(0)
        compute.responses(circuit, layer, np.flatnonzero(firing)[:3])
    assert 0.6 * cost.blocks <= sum(ran) <= cost.blocks  # a matched feature may be silent in some groups of cells
    assert "circuits" in cost.lines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["circuits.layers=[1,5]"], "the model has blocks 0 to 2"),
        (["circuits.layers=[1,0]"], "ascending order"),
        (["circuits.sources=[9999]"], "feature 9999 of circuits.sources does not exist"),
        (["circuits.sources=[1]", "circuits.recipe=latent"], "leave one out"),
        (["circuits.recipe=latnt"], "did you mean 'latent'"),
        (["circuits.paths=[a.pt]"], "names 1 dictionaries for 2 layers"),
        (["circuits.min_cells=9"], "must lie between 2 and circuits.max_cells=8"),
        (["circuits.recipe=latent", "objective.tokens=all"], "objective.tokens=genes"),
        (["model.tokens=expressed"], "model.tokens=all"),
        (["circuits.part=3", "circuits.parts=2"], "between 0 and circuits.parts-1=1"),
    ],
)
def test_mistakes(context, words, message):
    def run():
        made = context(*words, name="mistake")
        study.main("circuits", made, made.run)

    with pytest.raises(SteerError, match=message) as error:
        run()
    assert "\n" not in str(error.value)
