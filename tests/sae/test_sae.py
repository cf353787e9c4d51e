"""The SAE: its definition, its training on planted and on real tokens, its metrics and its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import config as numba_config
from numba import get_num_threads, set_num_threads

from steerpipe.activations.shards import Shards, layer_folder, write_index, write_shard
from steerpipe.activations.tokens import TokenPolicy
from steerpipe.config import SaeConfig
from steerpipe.errors import SteerError
from steerpipe.sae import train as module
from steerpipe.sae.io import load_sae, save_sae
from steerpipe.sae.metrics import score_sae
from steerpipe.sae.model import Codes, ThresholdSAE, TopKSAE, fold_scale, weighted_rows
from steerpipe.sae.step import auxk_loss, by_rows
from steerpipe.sae.train import train_sae
from steerpipe.sae.update import clip_factor, update

CPU = torch.device("cpu")


def random_sae(d=12, f=40, k=5, seed=0, **options):
    sae = TopKSAE(d, f, k, **options).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in sae.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return sae


def planted(folder, *, n_cells=40, genes=50, d=16, n_true=32, active=3, seed=0):
    """Tokens that are sparse sums of planted unit directions, as shards; returns the directions."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((n_true, d))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    codes = np.zeros((n_cells * genes, n_true))
    for row in codes:
        row[rng.choice(n_true, active, replace=False)] = rng.uniform(1, 3, active)
    layer_folder(folder, 0).mkdir(exist_ok=True)
    write_shard(layer_folder(folder, 0), 0, (codes @ truth + 5.0).astype(np.float32), "float32")
    write_index(folder, [0], np.full(n_cells, genes), genes, n_cells, TokenPolicy())
    return truth, Shards(folder, 0)


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_definition(activation):
    sae, x = random_sae(activation=activation), torch.randn(7, 12, generator=torch.Generator().manual_seed(5))
    pre = (x - sae.b_pre) @ sae.W_enc + sae.b_enc
    if activation == "relu":
        pre = pre.clamp_min(0)
    z = torch.zeros_like(pre)
    top = pre.topk(5).indices
    z[torch.arange(7)[:, None], top] = pre.gather(1, top)
    torch.testing.assert_close(sae.encode(x).dense(40), z)
    torch.testing.assert_close(sae(x), z @ sae.W_dec + sae.b_dec + sae.b_pre)


def test_sparse_decode_and_its_gradients_equal_the_dense_ones():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(10, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    indices = torch.stack([torch.randperm(10, generator=generator)[:4] for _ in range(18)]).reshape(6, 3, 4)
    codes = Codes(values, indices)
    seed = torch.randn(6, 3, 5, generator=generator, dtype=torch.float64)
    sparse, dense = weighted_rows(codes, rows), codes.dense(10) @ rows
    torch.testing.assert_close(sparse, dense)
    for a, b in zip(
        torch.autograd.grad(sparse, (values, rows), seed), torch.autograd.grad(dense, (values, rows), seed), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_threshold_passes_what_exceeds_it():
    sae, x = random_sae(), torch.randn(4, 9, 12, generator=torch.Generator().manual_seed(5))
    made = ThresholdSAE.of(sae, 2.5)
    pre = sae.pre_activations(x)
    codes = made.encode(x)
    torch.testing.assert_close(codes.dense(40), pre * (pre > 2.5))
    assert codes.values.shape[-1] == int((pre > 2.5).sum(-1).max())
    silent = ThresholdSAE.of(sae, 1e9)
    torch.testing.assert_close(silent(x), (sae.b_dec + sae.b_pre).expand_as(x))


def test_batch_selection_spends_its_codes_where_they_are_needed(tmp_path):
    """Half of the tokens are sums of one planted direction, half of five: one k for all is too many or too few."""
    rng = np.random.default_rng(0)
    truth = F.normalize(torch.from_numpy(rng.standard_normal((32, 16))), dim=1).numpy()
    codes = np.zeros((2000, 32))
    for i, row in enumerate(codes):
        active = 5 if i % 2 else 1
        row[rng.choice(32, active, replace=False)] = rng.uniform(1, 3, active)
    layer_folder(tmp_path, 0).mkdir()
    write_shard(layer_folder(tmp_path, 0), 0, (codes @ truth).astype(np.float32), "float32")
    write_index(tmp_path, [0], np.full(40, 50), 50, 40, TokenPolicy())
    shards, scores = Shards(tmp_path, 0), {}
    for selection in ("topk", "batchtopk"):
        config = SaeConfig(expansion=4, k=3, tokens=300_000, batch_size=500, lr=3e-3, selection=selection, b_pre=False)
        sae = train_sae(shards, np.arange(36), config, tmp_path, device=CPU)
        scores[selection] = score_sae(sae, shards, np.arange(36, 40))
    assert isinstance(sae, ThresholdSAE)
    assert scores["batchtopk"].l0 == pytest.approx(3, rel=0.15)
    assert scores["batchtopk"].fvu < 0.9 * scores["topk"].fvu, scores
    spent = (sae.encode(torch.from_numpy((codes @ truth).astype(np.float32))).values != 0).sum(1).numpy()
    assert spent[1::2].mean() > 1.5 * spent[::2].mean()
    save_sae(sae, tmp_path / "saved", {})
    again, x = load_sae(tmp_path / "saved"), torch.from_numpy(shards.cell(0))
    assert isinstance(again, ThresholdSAE)
    torch.testing.assert_close(again(x), sae(x), atol=1e-4, rtol=1e-4)


def test_folding_the_scale_keeps_the_reconstruction():
    sae, x = random_sae(), torch.randn(9, 12, generator=torch.Generator().manual_seed(1))
    centre, scale = sae.b_pre.clone(), 3.7
    inner = TopKSAE(12, 40, 5)
    inner.load_state_dict(sae.state_dict())
    with torch.no_grad():
        inner.b_pre.zero_()
    before = inner((x - centre) * scale) / scale + centre
    limited = ThresholdSAE.of(inner, 2.0)
    limited_before = limited((x - centre) * scale) / scale + centre
    torch.testing.assert_close(fold_scale(sae, scale)(x), before, atol=1e-4, rtol=1e-4)
    fold_scale(limited, scale).b_pre.copy_(centre)
    torch.testing.assert_close(limited(x), limited_before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("b_pre", [True, False])
def test_training_recovers_a_planted_dictionary(tmp_path, b_pre):
    truth, shards = planted(tmp_path)
    config = SaeConfig(expansion=4, k=3, tokens=500_000, batch_size=500, lr=3e-3, b_pre=b_pre, dead_after=20_000)
    sae = train_sae(shards, np.arange(40), config, tmp_path, device=CPU)
    cosine = np.abs(truth @ F.normalize(sae.W_dec, dim=1).numpy().T).max(1)
    assert cosine.mean() > 0.95, cosine
    assert score_sae(sae, shards, np.arange(40)).fvu < 0.12
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-4)
    assert bool(sae.b_pre.any()) == b_pre


def test_same_seed_same_bytes_and_a_killed_training_resumes_to_them(tmp_path, monkeypatch):
    config = SaeConfig(expansion=2, k=3, tokens=60_000, batch_size=250)
    monkeypatch.setattr(module, "CHECKPOINT_STEPS", 40)

    def trained(name):
        (tmp_path / name).mkdir(exist_ok=True)
        _, shards = planted(tmp_path / name)
        return train_sae(shards, np.arange(36), config, tmp_path / name, device=CPU).state_dict()

    whole, again = trained("whole"), trained("again")
    original, calls = module._step, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 137:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(module, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        trained("killed")
    resumed = trained("killed")
    assert len(calls) == 137 + 120  # from step 120, the last checkpoint
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
        assert torch.equal(tensor, resumed[name]), name
    assert (tmp_path / "whole" / "curve.jsonl").read_bytes() == (tmp_path / "killed" / "curve.jsonl").read_bytes()


def test_a_resumed_training_reads_no_tokens_again(tmp_path, monkeypatch):
    _, shards = planted(tmp_path)
    monkeypatch.setattr("steerpipe.activations.tokens.GROUP_BYTES", 0)  # groups of 4 cells
    cells, whole = np.arange(40), []
    for seed in (None, (3, 1)):
        whole = list(shards.batches(cells, 130, seed=seed))
        for skip in (1, 2, 7, len(whole) - 1, len(whole)):
            rest = list(shards.batches(cells, 130, seed=seed, skip=skip))
            assert len(rest) == len(whole) - skip
            assert all(torch.equal(a, b) for a, b in zip(rest, whole[skip:], strict=True))
    read = []
    original = Shards.cell
    monkeypatch.setattr(Shards, "cell", lambda self, i: (read.append(i), original(self, i))[1])
    next(shards.batches(cells, 130, seed=(3, 1), skip=12))  # token 1560 of 2000 is in group 7 of 10
    assert len(read) <= 12


def test_held_out_cells_are_never_read(tmp_path, monkeypatch):
    _, shards = planted(tmp_path)
    train = np.setdiff1d(np.arange(40), [3, 4, 20, 39])
    read = set()
    original = Shards.cell
    monkeypatch.setattr(Shards, "cell", lambda self, i: (read.add(i), original(self, i))[1])
    train_sae(shards, train, SaeConfig(expansion=2, k=3, tokens=5000, batch_size=100), tmp_path, device=CPU)
    assert read == set(train.tolist())


def test_auxk_gives_dead_features_an_encoder_gradient():
    sae, x = random_sae().requires_grad_(True), torch.randn(30, 12, generator=torch.Generator().manual_seed(1))
    dead = torch.zeros(40, dtype=torch.bool)
    dead[:20] = True
    auxk_loss(sae, x, (sae(x) - x).detach(), dead).backward()
    assert (sae.W_enc.grad[:, :20].abs().sum(0) > 0).sum() > 10
    assert sae.W_enc.grad[:, 20:].abs().sum() == 0
    assert (sae.W_dec.grad[:20].abs().sum(1) > 0).any()
    assert sae.W_dec.grad[20:].abs().sum() == 0


def test_auxk_revives_a_dictionary_that_starts_half_dead(tmp_path, monkeypatch):
    _, shards = planted(tmp_path)
    original = TopKSAE.initialise

    def half_dead(self, seed):
        original(self, seed)
        with torch.no_grad():
            self.b_enc[::2] = -5.0
        return self

    monkeypatch.setattr(TopKSAE, "initialise", half_dead)
    dead = {}
    for weight in (0.0, 1 / 8):
        config = SaeConfig(expansion=4, k=3, tokens=400_000, batch_size=500, lr=1e-2, auxk_weight=weight, dead_after=10_000)
        sae = train_sae(shards, np.arange(40), config, tmp_path, device=CPU)
        dead[weight] = score_sae(sae, shards, np.arange(40)).dead
    assert dead[0.0] >= 0.45
    assert dead[1 / 8] < dead[0.0] - 0.2, dead


def test_metrics_equal_their_definitions(tmp_path):
    _, shards = planted(tmp_path, n_cells=6)
    sae, cells = random_sae(d=16), np.array([0, 2, 5])
    x = torch.from_numpy(np.concatenate([shards.cell(i) for i in cells])).double()
    error = (sae(x.float()).double() - x).square().sum()
    score = score_sae(sae, shards, cells, batch_size=37)
    assert score.fvu == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-5)
    assert score.mse_uncentred == pytest.approx(float(error / x.square().sum()), rel=1e-5)
    z = sae.encode(x.float()).dense(40)
    np.testing.assert_allclose(score.density, (z != 0).double().mean(0))
    assert score.l0 == pytest.approx(5.0)
    assert score.dead == pytest.approx(float(((z != 0).sum(0) == 0).double().mean()))


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    _, shards = planted(tmp_path, n_cells=3, genes=10)
    with pytest.raises(SteerError, match="more than the 30 training tokens"):
        train_sae(shards, np.arange(3), SaeConfig(batch_size=64, k=3), tmp_path, device=CPU)


@pytest.mark.parametrize(("decay", "middle"), [("linear", 1.0), ("cosine", 0.5)])
def test_learning_rates_are_those_of_torch(decay, middle):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1 / 10, total_iters=9)
    if decay == "cosine":
        rest = [torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 190)]
        milestones = [10]
    else:
        rest = [
            torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0),
            torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1.0, end_factor=1 / 40, total_iters=39),
        ]
        milestones = [10, 160]
    schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [warm, *rest], milestones)
    theirs = []
    for _ in range(200):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    ours = [module.learning_rate(step, 200, decay) for step in range(200)]
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours[105] == pytest.approx(middle)


def test_a_clipped_step_is_that_of_torch():
    """Against torch's Adam and clipping on the gradients less their part along the decoder rows, then rows of length 1."""
    sae = by_rows(TopKSAE(6, 18, 3).initialise(0))
    theirs = by_rows(TopKSAE(6, 18, 3).initialise(0))
    ours = torch.optim.Adam([p for p in sae.parameters() if p.requires_grad], lr=0.01)
    adam = torch.optim.Adam([p for p in theirs.parameters() if p.requires_grad], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for clip in (1e9, 0.1, 0.02):
        for (name, p), q in zip(sae.named_parameters(), theirs.parameters(), strict=True):
            if p.requires_grad:
                grad = torch.randn(p.shape, generator=generator)
                p.grad = grad.T.contiguous().T if name == "W_enc" else grad.clone()
                q.grad = grad.clone()
        along = (theirs.W_dec.grad * theirs.W_dec.detach()).sum(1, keepdim=True)
        theirs.W_dec.grad -= along * theirs.W_dec.detach()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        assert clip_factor(sae, clip) == pytest.approx(min(1.0, clip / float(norm)), rel=1e-4)
        adam.step()
        theirs.W_dec.data = F.normalize(theirs.W_dec.data, dim=1)
        update(sae, ours, clip)
        for p, q in zip(sae.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"selection": "batchtopk", "b_pre": False},
        {"activation": "relu"},
        {"auxk_weight": 1.0, "dead_after": 500, "clip": 0.01, "unit_norm": False},
    ],
    ids=str,
)
def test_the_same_bytes_whatever_the_number_of_threads(tmp_path, settings, int8, monkeypatch):
    """Odd sizes: with these a product that is cut up by threads differs between one and two."""
    monkeypatch.setattr("steerpipe.sae.step.fast_int8", lambda: int8)
    _, shards = planted(tmp_path, d=21)
    config = SaeConfig(**{"expansion": 11, "k": 3, "tokens": 8_000, "batch_size": 407, "lr": 1e-2} | settings)
    before, trained = (torch.get_num_threads(), get_num_threads()), []
    for n in (1, 2):
        torch.set_num_threads(n)
        set_num_threads(min(n, numba_config.NUMBA_NUM_THREADS))
        try:
            trained.append(train_sae(shards, np.arange(36), config, tmp_path, device=CPU).state_dict())
        finally:
            torch.set_num_threads(before[0])
            set_num_threads(before[1])
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, trained[1][name]), name


@pytest.mark.parametrize("int8", [True, False])
@pytest.mark.parametrize(("lr", "broken", "said"), [(1e30, False, "it diverged"), (1e-3, True, "not finite")])
def test_a_training_that_leaves_the_numbers_is_refused(tmp_path, monkeypatch, lr, broken, said, int8):
    monkeypatch.setattr("steerpipe.sae.step.fast_int8", lambda: int8)
    _, shards = planted(tmp_path)
    if broken:
        write_shard(layer_folder(tmp_path, 0), 0, np.full((2000, 16), np.nan, np.float32), "float32")
        shards = Shards(tmp_path, 0)
    config = SaeConfig(expansion=4, k=3, tokens=20_000, batch_size=500, lr=lr, clip=1e30)
    with pytest.raises(SteerError, match=said):
        train_sae(shards, np.arange(36), config, tmp_path, device=CPU)


def test_the_normalisation_is_the_geometric_median(tmp_path, monkeypatch):
    _, shards = planted(tmp_path)
    cells, config = np.arange(40), SaeConfig(batch_size=300)
    x = torch.cat(list(shards.batches(cells, 300, seed=0))).double()
    found = module.normalisation(shards, cells, config)
    away = x - found.centre.double()
    assert (away / away.norm(dim=1, keepdim=True)).mean(0).norm() < 1e-3  # no pull is left
    assert float((away * found.scale).square().sum(1).mean()) == pytest.approx(16, rel=1e-4)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 4 * module.SAMPLE_TOKENS * 16 // 2)  # of every second token
    torch.testing.assert_close(module.normalisation(shards, cells, config).centre, found.centre, atol=0.2, rtol=0)
