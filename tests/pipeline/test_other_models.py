"""The whole pipeline on models whose cells have tokens of their own: scGPT's and Geneformer's folders, tiny and random."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from steerpipe.activations.extract import OnlineStreams
from steerpipe.cli.hydra import compose
from steerpipe.commands import study
from steerpipe.errors import SteerError
from steerpipe.models.base import PAD
from steerpipe.pipeline.activations import activations, load_cells, plan
from steerpipe.pipeline.dictionary import dictionary
from steerpipe.pipeline.evaluation import evaluation
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.fit import fit
from steerpipe.pipeline.null import null_recipes
from steerpipe.pipeline.problems import model_objective, shift
from steerpipe.pipeline.steered import steered
from steerpipe.run import Run
from steerpipe.steering.intervene import recipe_edit, run_edit
from steerpipe.store import Store
from steerpipe.studies.circuits import ablation, attribution, compute
from steerpipe.studies.circuits.network import HEAD, LayerCodes
from steerpipe.studies.regulation.study import ask

from ..made import Made
from ..models import tiny


@pytest.fixture(scope="module", params=["scGPT", "Geneformer"])
def context(request, tiny_genes, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("other")
    if request.param == "scGPT":
        folder = tiny.save_scgpt(tiny.scgpt(tiny_genes, most=60), outputs / "model")
    else:
        pytest.importorskip("transformers")
        folder = tiny.save_geneformer(tiny.geneformer(tiny_genes, most=60), outputs / "model")

    def make(*overrides):
        words = ["debug=small", "model=local", f"model.path={folder}", "layer=1", "dataset.max_cells=120", "sae.tokens=20000"]
        run = Run(outputs / "run", "test", {})
        run.path.mkdir(parents=True, exist_ok=True)
        words += ["evaluate.objectives=[latent]", "model.batch_size=5"]
        return Made(compose(*words, *overrides), Store(outputs / "store"), run=run)

    make.expression = request.param == "scGPT"
    return make


def test_stored_tokens_are_those_of_the_cells_genes(context):
    made = context()
    source = activations(made)
    model = prepare(made).cached.model
    cells = load_cells(made.config, model.genes)
    ids = np.array([3, 40, 7])
    online = OnlineStreams(model, cells, cells.valid, 1, source.policy, batch_size=5)
    np.testing.assert_array_equal(source.tokens.lengths(ids), online.lengths(ids))
    for i, columns, own, tokens, again in zip(
        ids, source.tokens.columns(ids), online.columns(ids), source.tokens.cells(ids), online.cells(ids), strict=True
    ):
        counts = cells[int(i) : int(i) + 1]
        tokens_of = model.tokens(counts)
        stream = model.stream(tokens_of, 1)[0]
        np.testing.assert_array_equal(columns, own)
        assert (counts[0, cells.valid[columns]].toarray() > 0).all()
        assert len(columns) == min((counts > 0).sum(), 60)
        at = {int(gene): place for place, gene in enumerate(tokens_of.genes[0])}
        wanted = stream[[at[int(gene)] for gene in cells.valid[columns]]]
        np.testing.assert_allclose(tokens, wanted, atol=5e-3)  # float16
        np.testing.assert_allclose(again, wanted, atol=1e-5)
        np.testing.assert_allclose(source.means[i], wanted.mean(0), atol=1e-4)


def test_a_sample_of_tokens_is_of_the_tokens_that_a_cell_has(context):
    source = activations(context("extract.tokens=sample", "extract.n_tokens=10"))
    ids = np.arange(20)
    whole = activations(context()).tokens.columns(ids)
    for some, every in zip(source.tokens.columns(ids), whole, strict=True):
        assert len(some) == min(10, len(every))
        assert set(some) <= set(every)


def test_a_recipe_does_what_the_linear_algebra_says(context):
    experiment = prepare(context())
    cached, theta = experiment.cached, np.random.default_rng(0).normal(0, 0.5, experiment.sae.n_features)
    rows = experiment.held_rows[:6]
    edit = recipe_edit(experiment.sae, torch.tensor(theta, dtype=torch.float32))
    before, after = run_edit(cached, rows, None, batch_size=4), run_edit(cached, rows, edit, batch_size=4)
    np.testing.assert_allclose(before.layer, experiment.layer[experiment.cells[rows]], atol=1e-5)
    np.testing.assert_allclose(before.final, experiment.final[experiment.cells[rows]], atol=1e-5)
    np.testing.assert_allclose(before.expression, experiment.expression[experiment.cells[rows]], atol=1e-4)
    np.testing.assert_allclose(after.layer - before.layer, shift(experiment, theta, "multiply", rows), atol=1e-4)
    assert np.abs(after.final - before.final).max() > 1e-3
    one = run_edit(cached, rows[:1], edit, batch_size=4)
    np.testing.assert_allclose(one.final, after.final[:1], atol=1e-5)


def test_a_list_of_genes_steers_their_tokens_alone(context):
    plain = prepare(context()).cached
    there, cells = np.unique(plain.genes[:8], return_counts=True)
    common = (there >= 0) & (there < len(plain.model.genes)) & (cells < 8)  # genes that most, not all, of the cells have
    some = [plain.model.genes[i] for i in there[common][np.argsort(-cells[common])][:2]]
    made = context(f"objective.tokens=[{','.join(some)}]")
    experiment = prepare(made)
    cached = experiment.cached
    theta = torch.full((experiment.sae.n_features,), 0.5)
    wanted = {cached.model.genes.index(gene) for gene in some}
    (batch,) = cached.batches(np.arange(8), 8)
    steered_batch = cached.add(batch, recipe_edit(experiment.sae, theta)(cached.taken(batch)))
    moved = (steered_batch.stream != batch.stream).any(-1).numpy()
    np.testing.assert_array_equal(moved, np.isin(batch.genes.numpy(), list(wanted)))
    assert moved.any()
    assert not moved.all(1).any()
    rows = np.arange(8)
    before, after = run_edit(cached, rows, None), run_edit(cached, rows, recipe_edit(experiment.sae, theta))
    np.testing.assert_allclose(after.layer - before.layer, shift(experiment, theta.numpy(), "multiply", rows), atol=1e-4)


def test_every_token_means_the_others_too_and_no_padding(context):
    experiment = prepare(context("objective.tokens=all"))
    (batch,) = experiment.cached.batches(np.arange(8), 8)
    delta = torch.ones_like(batch.stream)
    moved = (experiment.cached.add(batch, delta).stream != batch.stream).any(-1)
    assert torch.equal(moved, batch.genes != PAD)
    assert (batch.genes >= len(experiment.cached.model.genes)).any()


def test_gradients_are_those_of_finite_differences(context):
    made = context("objective=latent_final")
    experiment = prepare(made)
    names = ["latent_final", *(["expression"] if context.expression else [])]
    for name in names:
        objective = model_objective(experiment, made.config.objective.named(name))
        rng = np.random.default_rng(1)
        theta, way = rng.normal(0, 0.1, (2, experiment.sae.n_features))
        _, gradient = objective.value_and_gradient(theta)
        step = 1e-2
        slope = (objective.value(theta + step * way) - objective.value(theta - step * way)) / (2 * step)
        assert gradient @ way == pytest.approx(slope, rel=0.03, abs=1e-4)


def test_the_whole_way_to_scores(context):
    names = "[latent,latent_final,expression]" if context.expression else "[latent,latent_final]"
    made = context(f"evaluate.objectives={names}")
    found = evaluation(made)
    assert {"layer", "final"} <= set(found.scores["space"])
    headline = found.scores.query("space == 'layer' and score == 'gap' and split == 'fit'").set_index("recipe")["value"]
    assert headline["latent"] > 0.1
    assert headline["no-op"] == pytest.approx(0, abs=1e-6)
    assert "expression" in set(found.scores["space"])  # binned values, or ranks
    assert len(found.null)
    assert len(made.annotation().features) == found.recipes[0].theta.shape[0]
    everywhere = steered(made, dictionary(made, activations(made)).sae, found.recipes[0].theta)
    assert everywhere.before.layer.shape == everywhere.after.layer.shape
    assert np.isfinite(everywhere.after.expression).all()


def test_labels_dealt_at_random_leave_nothing_to_find(context):
    """Fits to cells dealt anew close about nothing of the gap, and at most one of twelve as much as the fit to the sides."""
    sides = ["contrast=labels", "contrast.source=cd4", "contrast.target=CD14+ Monocyte", "dataset.max_cells=300"]
    made = context("evaluate.n_permutations=12", "lambda.value=0.05", *sides)
    experiment = prepare(made)
    recipe = fit(experiment, made.config.objective)
    rows = experiment.held_rows
    gap = experiment.layer[experiment.split.target_held].mean(0) - experiment.layer[experiment.cells[rows]].mean(0)

    def closed(theta):
        return float(shift(experiment, theta, "multiply", rows).mean(0) @ gap / (gap @ gap))

    nulls = [closed(theta) for theta in null_recipes(experiment, made.config.objective)[1]]
    assert sum(null >= closed(recipe.theta) for null in nulls) <= 1
    assert abs(np.mean(nulls)) < closed(recipe.theta) / 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.readout=masked"], "take model.readout=reconstruction"),
        (["sae.centre=gene"], "take sae.centre=none"),
        (["objective.tokens=[LYZ]", "objective.mode=add"], "take multiply"),
        (["model.depth_target=1e4"], "has no depth tokens"),
        (["model.tokens=expressed"], "model.tokens=all"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(context, words, message):
    with pytest.raises(SteerError, match=message) as told:
        prepare(context(*words))
    assert "\n" not in str(told.value)


def test_a_circuit_is_that_of_every_cell_alone(context):
    """Cells of different lengths share a group: each gives what it gives alone, token by token."""
    made = context("circuits.max_cells=7")
    circuit = compute.prepared(made)
    network, model = circuit.network, circuit.network.model
    codes, clean = LayerCodes(network, 0), network.clean(0)
    source = int(codes.activity().mean(0).argmax())
    trial = ablation.trials(network, 0, source, codes.activity(), n_random=0, dose=False, seed=0)[0]
    found = ablation.respond(network, 0, codes, trial, clean)
    wanted = {level: [] for level in found.changes}
    sae, counts = network.saes[0], load_cells(made.config, model.genes)
    firing, tokens_seen = 0, 0
    for cell in circuit.cells:
        tokens = model.tokens(counts[int(cell) : int(cell) + 1])
        genes = tokens.genes[0]
        of_gene = torch.isin(genes, network.valid)
        with torch.no_grad():
            x = model.stream(tokens, 0)
            z = sae.encode(x).dense(sae.n_features)[0, :, source] * of_gene
            firing, tokens_seen = firing + int((z != 0).sum()), tokens_seen + int(of_gene.sum())
            after = x - z[None, :, None] * sae.W_dec[source]
            for level, rows in wanted.items():
                if level == HEAD:
                    a, b = (model.forward_from(0, y, network.valid, tokens.genes).expression for y in (after, x))
                else:
                    a, b = (
                        network.saes[level].encode(model.advance(y, 0, level, tokens.genes)).dense(sae.n_features)[0, of_gene]
                        for y in (after, x)
                    )
                    a, b = a.mean(0, keepdim=True), b.mean(0, keepdim=True)
                rows.append((a - b)[0].numpy())
    assert (HEAD in wanted) == context.expression
    assert codes.firing()[source] == pytest.approx(firing / tokens_seen)
    for level, rows in wanted.items():
        np.testing.assert_allclose(found.changes[level], np.array(rows)[found.cells], atol=2e-4)
        assert np.abs(found.changes[level]).max() > 1e-3
    gradients = attribution.attributions(network, 0, 1, np.arange(3), codes, n_cells=7)
    assert gradients.shape == (7, sae.n_features, 3)
    step = [network.add(batch, 1e-3 * z) for batch, z in _steps(network, codes, source, sae.W_dec[source])]
    moved = torch.cat([network.read(0, batch, [1])[1] for batch in step]) - clean[1]
    np.testing.assert_allclose(-gradients[:, source], moved[:, :3].numpy() / 1e-3, atol=0.05 * np.abs(gradients).max() + 1e-3)


def _steps(network, codes, source, row):
    z = codes.of(source)
    for group in network.groups():
        batch = network.stream(0, group)
        yield batch, z[group, : batch.stream.shape[1], None] * row


STUDIES = {
    "circuits": ["circuits.recipe=latent"],
    "pareto": [],
    "recruitment": ["diagnose.expansions=[]", "diagnose.top_n=[]", "diagnose.n_refits=2", "diagnose.n_matched=1"],
    "recipe": ["recipe.up=[GZMB,NKG7,CTSW,CD8A]"],
    "granularity": [],
    "stability": [],
    "transfer": [
        "transfer.by=phase",
        "transfer.types=[G1,S]",
        "transfer.min_cells=8",
        "dataset.max_cells=400",
        "dataset.test_share=0.4",
    ],
}


@pytest.mark.parametrize("name", STUDIES)
def test_studies_run_to_the_end(context, name):
    """Each to its end, or for a model without a head of expression to one line that says so."""
    made = context("dataset.max_cells=200", "evaluate.objectives=[latent,expression]", *STUDIES[name])
    if not context.expression and name not in ("circuits", "stability"):
        with pytest.raises(SteerError, match="has no expression head") as told:
            study.main(name, made, made.run)
        assert "\n" not in str(told.value)
        return
    study.main(name, made, made.run)
    assert list((made.run.path / "plots").glob("*.png"))


def test_a_folder_of_another_kind_than_asked_for_is_refused(context):
    with pytest.raises(SteerError, match=r"a folder of AIDO.Cell has config.json .* model=local takes") as told:
        activations(context("model.kind=AIDO.Cell"))
    assert "\n" not in str(told.value)


def test_regulation_is_refused_before_anything_is_read(context):
    with pytest.raises(SteerError, match=r"steer regulation .* tokens of the genes that it expresses alone") as told:
        ask(context("regulation.regulons=/nowhere.csv"))
    assert "\n" not in str(told.value)


def test_a_plan_is_of_the_genes_that_are_run(context):
    made = context()
    found = plan(made)
    lengths = activations(made).tokens.lengths(np.arange(120))
    assert found.tokens_per_cell == pytest.approx(lengths.mean(), abs=1.5)
    assert isinstance(found.lines(), str)
    assert pd.Series(found.row()).notna().all()
