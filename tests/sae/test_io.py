"""SAEs on disk: our own files, SAELens' layout and the published format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from steerpipe.errors import SteerError
from steerpipe.sae.io import import_sae, load_published, load_sae, save_sae

from .test_sae import random_sae


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
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor=True is not supported"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str='tanh-relu' is not supported"),
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
