"""The SAE: its definition, its training on planted and on real tokens, its metrics and its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from steerpipe.activations.shards import Shards, layer_folder, write_index, write_shard
from steerpipe.activations.tokens import TokenPolicy
from steerpipe.config import SaeConfig
from steerpipe.errors import SteerError
from steerpipe.sae import train as module
from steerpipe.sae.io import import_sae, load_published, load_sae, save_sae
from steerpipe.sae.metrics import score_sae
from steerpipe.sae.model import Codes, TopKSAE, fold_scale, weighted_rows
from steerpipe.sae.step import auxk_loss
from steerpipe.sae.train import split_cells, train_sae

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


def published(path, *, width=12, expansion=4, k=5, seed=0, use_b_pre=False, prefix=""):
    """Write a random SAE as the published training script does; return the path."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "encoder.weight": (width * expansion, width),
        "encoder.bias": (width * expansion,),
        "decoder.weight": (width, width * expansion),
        "decoder.bias": (width,),
    }
    if use_b_pre:
        sizes["b_pre"] = (width,)
    state = {prefix + name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    losses = {"train_losses": [0.2, 0.1], "val_losses": [0.3, 0.2], "relative_recon_error": 0.1}
    options = {"input_dim": width, "expansion": expansion, "k": k, "use_b_pre": use_b_pre, "weight_norm": False}
    torch.save({"model_state_dict": state, **options, **losses}, path)
    return path


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


def test_folding_the_scale_keeps_the_reconstruction():
    sae, x = random_sae(), torch.randn(9, 12, generator=torch.Generator().manual_seed(1))
    centre, scale = sae.b_pre.clone(), 3.7
    inner = TopKSAE(12, 40, 5)
    inner.load_state_dict(sae.state_dict())
    with torch.no_grad():
        inner.b_pre.zero_()
    before = inner((x - centre) * scale) / scale + centre
    torch.testing.assert_close(fold_scale(sae, scale)(x), before, atol=1e-4, rtol=1e-4)


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
    monkeypatch.setattr(module, "CHECKPOINT_STEPS", 50)

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
    assert len(calls) == 137 + 140  # from step 100, the last checkpoint
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
        assert torch.equal(tensor, resumed[name]), name
    assert (tmp_path / "whole" / "curve.jsonl").read_bytes() == (tmp_path / "killed" / "curve.jsonl").read_bytes()


def test_held_out_cells_are_never_read(tmp_path, monkeypatch):
    _, shards = planted(tmp_path)
    train, held = split_cells(40, 0.1, 0)
    assert len(held) == 4
    assert not set(train) & set(held)
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


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_file_round_trip(tmp_path, activation):
    sae, x = random_sae(activation=activation), torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    save_sae(sae, tmp_path, {"note": "x"})
    again = load_sae(tmp_path)
    torch.testing.assert_close(again(x), sae(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.encode(x).dense(40), sae.encode(x).dense(40), atol=1e-4, rtol=1e-4)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["d_in"], cfg["d_sae"], cfg["k"]) == ("topk", 12, 40, 5)


def test_sae_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(SteerError, match="no SAE in"):
        load_sae(tmp_path)
    save_sae(random_sae(), tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text()) | {"architecture": "gated"}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SteerError, match="'gated' is not supported"):
        load_sae(tmp_path)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    _, shards = planted(tmp_path, n_cells=3, genes=10)
    with pytest.raises(SteerError, match="more than the 30 training tokens"):
        train_sae(shards, np.arange(3), SaeConfig(batch_size=64, k=3), tmp_path, device=CPU)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("use_b_pre", [False, True])
def test_a_published_file_equals_its_formula(tmp_path, use_b_pre, prefix):
    path = published(tmp_path / "topk_sae.pt", use_b_pre=use_b_pre, prefix=prefix)
    state = {name.removeprefix(prefix): t.double().numpy() for name, t in torch.load(path)["model_state_dict"].items()}
    x = np.random.default_rng(4).standard_normal((30, 12))
    centre = state["b_pre"] if use_b_pre else 0.0
    pre = (x - centre) @ state["encoder.weight"].T + state["encoder.bias"]
    z = np.zeros_like(pre)
    for row, code in zip(pre, z, strict=True):
        keep = np.argsort(-row)[:5]  # by value, not by magnitude
        code[keep] = row[keep]
    x_hat = z @ state["decoder.weight"].T + state["decoder.bias"] + centre
    sae = load_published(path)
    assert (sae.activation, sae.k, sae.n_features) == ("identity", 5, 48)
    assert bool(sae.b_pre.any()) == use_b_pre
    tokens = torch.from_numpy(x).float()
    np.testing.assert_allclose(sae.encode(tokens).dense(48), z, atol=1e-4)
    np.testing.assert_allclose(sae(tokens), x_hat, atol=1e-4)
    save_sae(sae, tmp_path / "ours", {})
    again = import_sae(tmp_path / "ours")
    np.testing.assert_allclose(again.encode(tokens).dense(48), z, atol=1e-4)
    np.testing.assert_allclose(again(tokens), x_hat, atol=1e-4)
    np.testing.assert_allclose(import_sae(tmp_path)(tokens), x_hat, atol=1e-4)  # the folder that has the file


def test_published_codes_keep_their_sign(tmp_path):
    path = published(tmp_path / "topk_sae.pt", expansion=1, k=12)  # every feature is kept: the negative ones too
    codes = load_published(path).encode(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)))
    assert (codes.values < 0).any()


def without(*names):
    def edit(found):
        for name in names:
            (found if name in found else found["model_state_dict"]).pop(name)
        return found

    return edit


def reshaped(name, *size):
    return lambda found: found | {"model_state_dict": found["model_state_dict"] | {name: torch.ones(size)}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("model_state_dict"), "lacks model_state_dict; the file to take is topk_sae.pt"),
        (without("k", "expansion"), "lacks expansion, k"),
        (lambda found: found["model_state_dict"], "lacks model_state_dict, expansion, k"),
        (lambda found: [1], "lacks model_state_dict, expansion, k"),
        (without("decoder.bias"), "weights lack decoder.bias"),
        (without("encoder.weight"), "weights lack encoder.weight"),
        (lambda found: found | {"use_b_pre": True}, "weights lack b_pre"),
        (lambda found: found | {"expansion": 8}, "expansion=8 of width 12 does not give its 48 features"),
        (lambda found: found | {"k": 49}, "k=49 must lie between 1 and the 48 features"),
        (reshaped("decoder.weight", 48, 12), r"W_dec has shape \(12, 48\), not \(48, 12\)"),
        (reshaped("encoder.bias", 3), r"b_enc has shape \(3,\)"),
    ],
)
def test_published_files_that_are_broken(tmp_path, damage, message):
    path = published(tmp_path / "sae.pt")
    torch.save(damage(torch.load(path)), path)
    with pytest.raises(SteerError, match=message) as error:
        load_published(path)
    assert "\n" not in str(error.value)


def test_published_files_that_are_no_files_of_weights(tmp_path):
    with pytest.raises(SteerError, match=r"no SAE in .*nowhere"):
        load_published(tmp_path / "nowhere.pt")
    whole = published(tmp_path / "sae.pt").read_bytes()
    (tmp_path / "sae.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SteerError, match="cannot be read as an SAE"):
        load_published(tmp_path / "sae.pt")

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    torch.save({"model_state_dict": Evil()}, tmp_path / "sae.pt")
    with pytest.raises(SteerError, match="cannot be read as an SAE"):
        load_published(tmp_path / "sae.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm' is not supported"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm=True is not supported"),
        ({"d_sae": 41}, r"W_enc has shape \(12, 40\), not \(12, 41\)"),
        ({"k": 0}, "k=0 must lie between 1 and the 40 features"),
    ],
)
def test_saelens_folders_that_mean_something_else(tmp_path, changes, message):
    save_sae(random_sae(), tmp_path, {})
    cfg = json.loads((tmp_path / "cfg.json").read_text()) | changes
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SteerError, match=message):
        load_sae(tmp_path)


def test_saelens_folders_that_end_early(tmp_path):
    save_sae(random_sae(), tmp_path, {})
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(SteerError, match="cannot be read"):
        load_sae(tmp_path)
