"""Pretraining: what a batch holds, resumption to the same bytes, and that it learns a planted structure."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from steerpipe.config import PretrainConfig
from steerpipe.config.pretraining import Recipe
from steerpipe.errors import SteerError
from steerpipe.models.aido_cell import AidoCell, ArchConfig
from steerpipe.models.preprocess import MASK, DepthRule
from steerpipe.pretraining import train as module
from steerpipe.pretraining.teacher import train_teacher
from steerpipe.pretraining.thinning import SHIFTED, ThinnedCells, log_cp10k, shift_genes
from steerpipe.pretraining.train import gene_weights, masked_score, pretrain, principal_components

G = 40


@pytest.fixture(scope="module")
def counts():
    """Two cell types that differ in half of their genes."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0.5, 0.7, (2, G)))
    rate[0, : G // 4] *= 8
    rate[1, G // 4 : G // 2] *= 8
    kind = rng.integers(2, size=400)
    return rng.poisson(rate[kind]).astype(np.uint16)


def recipe(**changes):
    sizes = {"context": 24, "long_context": 30, "batch_size": 16, "full_batch_size": 8, "lr": 5e-3}
    sizes |= {"teacher_steps": 200, "settle_steps": 0, "finish_steps": 0}
    return Recipe(**{"steps": 200, "full_steps": 10, **sizes, **changes})


def fresh():
    arch = ArchConfig(16, 4, 2, 24, G, depth=DepthRule(0.0, 2.0))
    return AidoCell(arch, [f"g{i}" for i in range(G)])


def test_a_batch_is_thinned_in_and_full_depth_out(counts):
    batch = ThinnedCells(counts, recipe(small_panel=0.0, full_depth=1.0, same_depth=0.2)).draw(
        np.random.default_rng(3), np.arange(32)
    )
    assert batch.values.shape == (32, 26)
    assert batch.target.shape == batch.masked.shape == (32, 24)
    assert (batch.positions[:, -2:] == torch.tensor([G, G + 1])).all()
    assert (batch.positions[:, :-2].diff(dim=1) > 0).all()
    target_depth, input_depth = batch.values[:, -2], batch.values[:, -1]
    total = torch.from_numpy(counts[:32].sum(1).astype(np.float32))
    torch.testing.assert_close(target_depth, total.log10())
    assert (input_depth <= target_depth + 1e-6).all()
    assert input_depth.std() > 0.1
    assert ((batch.values[:, :-2] == MASK) == batch.masked).all()
    i, j = 5, 7
    gene = int(batch.positions[i, j])
    assert batch.target[i, j] == pytest.approx(np.log1p(counts[i, gene] / counts[i].sum() * 1e4), rel=1e-5)


def test_targets_are_thinned_too_and_inputs_from_them(counts):
    data = ThinnedCells(counts, recipe(small_panel=0.0, full_depth=0.5, same_depth=0.25, min_rate=0.3))
    deep, thin, present = data.sample(np.random.default_rng(0), np.arange(400))
    assert present.all()
    assert (deep <= counts).all()
    assert (thin <= deep).all()
    whole, same = (deep == counts).all(1), (thin == deep).all(1)
    assert 0.4 < whole.mean() < 0.6
    assert 0.2 < same.mean() < 0.35
    assert abs(same[whole].mean() - same[~whole].mean()) < 0.15
    # a thinned cell keeps its profile in expectation
    assert np.abs(deep[~whole].mean(0) / deep[~whole].mean() - counts[~whole].mean(0) / counts[~whole].mean()).max() < 0.15


def test_shifted_genes_are_detected_by_shares_of_their_own():
    counts = np.full((300, 500), 400)
    out = shift_genes(np.random.default_rng(0), counts, 2.0)
    assert (out <= counts).all()
    log = np.log(out / counts)
    spread = log.std(1)
    plain = (out == counts).all(1)
    assert abs(plain.mean() - (1 - SHIFTED)) < 0.08
    # s is uniform up to 2, so the log rates' sd goes up to 2 / sqrt 12; counting adds a little
    assert 0.25 < spread[~plain].mean() < 0.33
    assert 0.52 < spread.max() < 0.62
    assert np.abs(np.corrcoef(log[~plain][:40])[np.triu_indices(40, 1)]).mean() < 0.1  # another share in every cell
    recipes = [ThinnedCells(counts, recipe(full_depth=1.0), gene_shift=shift) for shift in (0.0, 2.0)]
    plain, shifted = (x.sample(np.random.default_rng(0), np.arange(300)).deep for x in recipes)
    assert plain.sum() > 1.2 * shifted.sum()


def test_a_teacher_stands_in_for_the_counts_at_masked_genes_only(counts):
    settings = recipe(small_panel=0.0, max_masked=0.5, teacher_weight=0.75)

    def teacher(values, visible, depth):
        assert (values >= 0).all()
        assert depth.shape == (16, 2)
        torch.testing.assert_close(depth[:, 0], depth[:, 1])
        return 100 + visible  # tells whether the gene that it speaks of was hidden from it

    for step in range(5):
        plain = ThinnedCells(counts, settings).draw(np.random.default_rng(step), np.arange(16))
        taught = ThinnedCells(counts, settings, teacher=teacher).draw(np.random.default_rng(step), np.arange(16))
        assert torch.equal(plain.values, taught.values)
        masked = plain.masked
        torch.testing.assert_close(taught.target[masked], 0.75 * 100 + 0.25 * plain.target[masked])
        torch.testing.assert_close(taught.target[~masked], plain.target[~masked])


def test_the_teacher_knows_more_than_the_gene_means_and_is_reproducible(counts):
    settings = recipe(small_panel=0.0, teacher_steps=300)
    cells = np.arange(300)
    teacher = train_teacher(ThinnedCells(counts, settings), cells, settings)
    state = np.random.default_rng(0)
    hidden = state.random((100, G)) < 0.3
    values, depth = log_cp10k(counts[300:]), np.log10(counts[300:].sum(1, keepdims=True)).repeat(2, 1).astype(np.float32)
    y = teacher(*map(torch.from_numpy, (values, (~hidden).astype(np.float32), depth))).numpy()
    error, base = np.square(y - values)[hidden].mean(), np.square(values - log_cp10k(counts[:300]).mean(0))[hidden].mean()
    assert error < 0.8 * base
    torch.manual_seed(99)
    again = train_teacher(ThinnedCells(counts, settings), cells, settings)
    assert all(torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), again.state_dict().values(), strict=True))


def test_masked_genes_are_drawn_without_a_look_at_their_values(counts):
    data, rng = ThinnedCells(counts, recipe(small_panel=0.0, max_masked=0.4)), np.random.default_rng(0)
    hidden = np.zeros(G)
    for _ in range(300):
        batch = data.draw(rng, np.arange(16))
        np.add.at(hidden, batch.positions[:, :-2][batch.masked].numpy(), 1)
    assert hidden.std() / hidden.mean() < 0.1
    assert abs(np.corrcoef(hidden, counts.mean(0))[0, 1]) < 0.4


def test_genes_that_a_smaller_panel_lacks_are_zero_and_out_of_the_total(counts):
    panel = np.arange(G) < 20
    data = ThinnedCells(counts, recipe(small_panel=1.0, full_depth=1.0), [panel])
    data._present = lambda rng, n: panel
    batch = data.draw(np.random.default_rng(1), np.arange(8), full=True)
    assert (batch.values[:, 20:-2] == 0).all()
    assert not batch.masked[:, 20:].any()
    assert not batch.present[:, 20:].any()
    torch.testing.assert_close(batch.values[:, -2], torch.from_numpy(counts[:8, :20].sum(1).astype(np.float32)).log10())


def test_principal_components_find_the_two_types(counts):
    found = principal_components(counts, 5)
    assert found.loadings.shape == (G, 5)
    assert found.scores.shape == (400, 5)
    assert found.share[0] > 1.5 * found.share[1]
    first = found.scores[:, 0]
    kind = counts[:, : G // 4].sum(1) > counts[:, G // 4 : G // 2].sum(1)
    assert abs(np.corrcoef(first, kind)[0, 1]) > 0.9


def test_gene_weights_favour_rare_genes(counts):
    weights = gene_weights(counts)
    assert weights.mean() == pytest.approx(1.0)
    sd = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).std(0)
    assert np.corrcoef(weights, sd)[0, 1] < -0.5


def test_it_learns_and_a_killed_run_resumes_to_the_same_bytes(counts, tmp_path, monkeypatch):
    def run(name, **options):
        (tmp_path / name).mkdir(exist_ok=True)
        return pretrain(fresh(), counts, recipe(steps=400), tmp_path / name, **options)

    whole = run("whole")
    components = principal_components(counts)
    data, mean = ThinnedCells(counts, recipe()), torch.from_numpy(components.mean)
    assert masked_score(whole, data, np.arange(100), mean) < 0.85

    original, calls = module.loss_of, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 317:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(module, "loss_of", dying)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    resumed = run("killed")
    assert len(calls) == 317 + 200
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert (tmp_path / "whole" / "curve.jsonl").read_bytes() == (tmp_path / "killed" / "curve.jsonl").read_bytes()


def test_settling_and_finishing_start_from_float16_weights_and_resume_to_the_same_bytes(counts, tmp_path, monkeypatch):
    later = {"settle_lr": 1e-3, "finish_lr": 5e-4, "settle_teachers": 2, "settle_visible": 3.0, "finish_visible": 0.25}
    settings = recipe(steps=100, settle_steps=100, finish_steps=100, **later)

    def run(name, settings=settings):
        (tmp_path / name).mkdir(exist_ok=True)
        return pretrain(fresh(), counts, settings, tmp_path / name)

    whole, before = run("whole"), run("before", recipe(steps=100))
    settled = run("settled", replace(settings, finish_steps=0))
    assert (tmp_path / "whole" / "teacher_2.pt").is_file()
    rounded = fresh()
    rounded.load_state_dict({name: p.half().float() for name, p in before.state_dict().items()})
    (tmp_path / "started").mkdir()
    started = pretrain(rounded, counts, settings, tmp_path / "started", started=True)
    assert not (tmp_path / "started" / "teacher_0.pt").exists()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, started.state_dict()[name]), name
    curve = (tmp_path / "whole" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [100, 200, 300]
    seen = []
    original = module.loss_of

    def dying(model, batch, weights, guide, scores):
        seen.append((guide is None, batch.target.shape, float(weights.mean())))
        if len(seen) in (101, 201):  # a phase's first step
            for a, b in zip(model.parameters(), (before if len(seen) == 101 else settled).parameters(), strict=True):
                assert torch.equal(a, b.half().float())
        if len(seen) == 250:
            raise KeyboardInterrupt
        return original(model, batch, weights, guide, scores)

    monkeypatch.setattr(module, "loss_of", dying)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    resumed = run("killed")
    assert not any(settling for settling, _, _ in seen[:100])
    assert all(settling for settling, _, _ in seen[100:])
    assert [shape for _, shape, _ in seen[100:103]] == [(8, 40), (16, 30), (8, 40)]
    assert {shape for _, shape, _ in seen[200:]} == {(8, 40)}
    np.testing.assert_allclose([seen[i][2] for i in (0, 100, 200, -1)], [1, 3, 0.25, 0.25], rtol=1e-5)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_start_with_no_steps_after_it():
    with pytest.raises(SteerError, match="start=mini leaves nothing to train; add pretrain=finish"):
        PretrainConfig(start="mini", settle_steps=0, finish_steps=0)


def test_finishing_alone_goes_on_from_a_model_with_teachers_of_shifted_cells(counts, tmp_path, monkeypatch):
    model, seen, original = fresh(), [], module.loss_of
    module.initialise(model, 0)
    before = [p.clone() for p in model.parameters()]

    def watched(model, batch, weights, guide, scores):
        if not seen:
            assert all(torch.equal(a, b.half().float()) for a, b in zip(model.parameters(), before, strict=True))
        seen.append((guide is None, batch.target.shape, float(weights.mean())))
        return original(model, batch, weights, guide, scores)

    monkeypatch.setattr(module, "loss_of", watched)
    settings = recipe(steps=300, finish_steps=20, finish_visible=0.5)
    pretrain(model, counts, settings, tmp_path, started=True)
    assert {(guide, shape) for guide, shape, _ in seen} == {(True, (8, 40))}
    assert len(seen) == 20
    assert seen[0][2] == pytest.approx(0.5)
    assert sorted(path.name for path in tmp_path.glob("teacher_*.pt")) == ["teacher_1.pt", "teacher_2.pt"]
    assert json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[-1])["step"] == 320


def test_a_time_limit_stops_cleanly(counts, tmp_path):
    with pytest.raises(SteerError, match="stopped after 200 of 400 steps; the same command resumes"):
        pretrain(fresh(), counts, recipe(steps=400), tmp_path, minutes=1e-6)
