"""Checkpoint files: every form that is accepted, and one line for every one that is not."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from steerpipe.errors import SteerError
from steerpipe.models.checkpoints import (
    LICENCE,
    OWN_LICENCE,
    PACKAGED,
    has_head,
    load_model,
    normalise_keys,
    provenance,
    save_model,
)

from ..conftest import random_model

BIAS = ("cls.predictions.bias", "cls.predictions.decoder.bias")


@pytest.fixture(scope="module")
def model():
    return random_model([f"g{i}" for i in range(60)], seed=3)


@pytest.fixture(scope="module")
def values():
    return torch.rand(4, 62, generator=torch.Generator().manual_seed(1)) * 5


def write(folder, state, *, legacy=False):
    """Put a .bin in the place of the .safetensors."""
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


def encoder_only(state):
    return {k: v for k, v in state.items() if k.startswith("bert.")}


FORMS = {
    "both biases": lambda state: state | {BIAS[0]: state[BIAS[1]]},
    "other bias": lambda state: {k: v for k, v in state.items() if k != BIAS[1]} | {BIAS[0]: state[BIAS[1]]},
    "stray buffers": lambda state: state | {"bert.gene_embedding.bin_num_idx": torch.arange(100)},
    "half precision": lambda state: state,
    "encoder": encoder_only,
    "encoder without prefix": lambda state: {k.removeprefix("bert."): v for k, v in encoder_only(state).items()},
}


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy bin"])
@pytest.mark.parametrize("form", ["as saved", *FORMS])
def test_accepted_forms(model, values, tmp_path, form, kind):
    save_model(model, tmp_path, dtype=torch.float32)
    state = FORMS.get(form, dict)(dict(model.state_dict()))
    if form == "half precision":
        state = {k: v.half() for k, v in state.items()}
    if kind == "safetensors":
        save_file({k: v.clone() for k, v in state.items()}, tmp_path / "model.safetensors")
    else:
        write(tmp_path, state, legacy=kind == "legacy bin")
    loaded = load_model(tmp_path)
    assert loaded.genes == model.genes
    assert loaded.arch == model.arch
    assert loaded.has_head == has_head(tmp_path) == (not form.startswith("encoder"))
    got, wanted = loaded(values), model(values)
    if form == "half precision":
        assert got.final.dtype == torch.float32
        torch.testing.assert_close(got.final, wanted.final, atol=0.05, rtol=0.05)
        return
    assert torch.equal(got.final, wanted.final)
    if loaded.has_head:
        assert torch.equal(got.expression, wanted.expression)


def test_a_head_without_a_bias_is_one_number_off(model, values, tmp_path, caplog):
    save_model(model, tmp_path, dtype=torch.float32)
    write(tmp_path, {k: v for k, v in model.state_dict().items() if k != BIAS[1]})
    with caplog.at_level(logging.WARNING):
        got = load_model(tmp_path)(values).expression
    assert "without a bias" in caplog.text
    torch.testing.assert_close(got + model.state_dict()[BIAS[1]], model(values).expression)


def test_linear_biases(values, tmp_path):
    from dataclasses import replace

    from steerpipe.models.aido_cell import AidoCell

    plain = random_model([f"g{i}" for i in range(60)])
    model = AidoCell(replace(plain.arch, add_linear_bias=True), plain.genes).eval()
    save_model(model, tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path)(values).final, model(values).final)


def test_unequal_tied_biases_are_refused(model):
    state = model.state_dict() | {BIAS[0]: torch.ones(1) * 9}
    with pytest.raises(SteerError, match="differ"):
        normalise_keys(state)


def config(**changes):
    """A damage to config.json; None drops a key."""

    def edit(folder):
        settings = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))

    return edit


def tensors(change):
    """A damage to the weights' table."""

    def edit(folder):
        write(folder, change(torch.load(folder / "state.pt")))

    return edit


def cut(name, share):
    """A file that ends early, as a broken download does."""

    def edit(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])

    return edit


def text(name, words):
    return lambda folder: (folder / name).write_text(words)


def without(key):
    return tensors(lambda state: {k: v for k, v in state.items() if k != key})


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14560500\n"
DAMAGES = {
    "RMSNorm": (config(normalization_type="RMSNorm"), ["normalization_type='RMSNorm'", "only 'LayerNorm'"]),
    "rope": (config(position_embedding_type="rope"), ["position_embedding_type='rope'", "only 'absolute'"]),
    "gelu": (config(hidden_act="gelu"), ["hidden_act='gelu'", "only 'swiglu'"]),
    "epsilon": (config(layer_norm_eps=1e-12), ["layer_norm_eps=1e-12", "only 1e-05"]),
    "mask": (config(mask_token_id=4), ["mask_token_id=4", "only -1"]),
    "no width": (config(hidden_size=None), ["lacks hidden_size"]),
    "no sizes": (config(num_attention_heads=None, intermediate_size=None), ["lacks num_attention_heads, intermediate_size"]),
    "width in words": (config(hidden_size="wide"), ["hidden_size='wide' must be a whole number"]),
    "no heads": (config(num_attention_heads=0), ["num_attention_heads=0 must be a whole number"]),
    "heads": (config(num_attention_heads=5), ["hidden_size=32 does not divide by num_attention_heads=5"]),
    "width": (config(hidden_size=64), ["config.json says hidden_size=64; the weights have hidden_size=32"]),
    "inner": (config(intermediate_size=64), ["says intermediate_size=64; the weights have intermediate_size=48"]),
    "layers": (config(num_hidden_layers=2), ["says num_hidden_layers=2; the weights have num_hidden_layers=3"]),
    "positions": (config(max_position_embeddings=61), ["says max_position_embeddings=61;", "max_position_embeddings=60"]),
    "two sizes": (config(hidden_size=64, num_hidden_layers=9), ["=9, hidden_size=64; the weights have num_hidden_layers=3, h"]),
    "linear bias": (config(add_linear_bias=True), ["keys missing", "key.bias"]),
    "genes": (text("genes.txt", "A B C"), ["3 genes for 60 positions"]),
    "no genes": (lambda f: (f / "genes.txt").unlink(), ["19264 genes for 60 positions"]),
    "missing key": (without("bert.encoder.ln.weight"), ["1 keys missing ['bert.encoder.ln.weight'], 0 unknown"]),
    "missing layer": (without("bert.encoder.layer.1.mlp.up_proj.weight"), ["1 keys missing", "layer.1.mlp"]),
    "unknown key": (tensors(lambda s: s | {"lm_head": torch.ones(2)}), ["0 keys missing [], 1 unknown ['lm_head']"]),
    "another model": (tensors(lambda s: {"embed.weight": torch.ones(2)}), ["the weights are not AIDO.Cell's"]),
    "shape": (tensors(lambda s: s | {"bert.encoder.ln.bias": torch.ones(7)}), ["bert.encoder.ln.bias has shape (7,)", "(32,)"]),
    "nested": (tensors(lambda s: {"state_dict": s}), ["cannot be read as weights", "state_dict() alone"]),
    "list": (tensors(lambda s: list(s.values())), ["cannot be read as weights", "state_dict() alone"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["no weights in", "pytorch_model.bin"]),
    "truncated": (cut("model.safetensors", 0.7), ["model.safetensors cannot be read as weights", "fetch the file again"]),
    "empty": (cut("model.safetensors", 0), ["cannot be read as weights"]),
    "junk": (text("model.safetensors", "junk" * 50), ["cannot be read as weights"]),
    "pointer": (text("model.safetensors", POINTER), ["cannot be read as weights"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["no config.json in", "or a hub id"]),
    "half a config": (cut("config.json", 0.5), ["not JSON"]),
    "list for a config": (text("config.json", "[1]"), ["not JSON of a model's settings: a list"]),
    "bytes for a config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), ["not JSON"]),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=list(DAMAGES))
def test_broken_checkpoints_are_refused_in_one_line(model, tmp_path, damage, words):
    save_model(model, tmp_path)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    load_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(SteerError) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("share", [0.3, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_bin_that_ends_early(model, tmp_path, legacy, share):
    save_model(model, tmp_path)
    write(tmp_path, model.state_dict(), legacy=legacy)
    cut("pytorch_model.bin", share)(tmp_path)
    for read in (load_model, has_head):
        with pytest.raises(SteerError, match=r"pytorch_model.bin cannot be read as weights \(\w+\); fetch") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


def test_a_pickle_that_is_not_weights_is_never_run(model, tmp_path):
    save_model(model, tmp_path)

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    write(tmp_path, {"x": Evil()})
    for read in (load_model, has_head):
        with pytest.raises(SteerError, match="cannot be read as weights"):
            read(tmp_path)


def test_whose_licence_it_is(model, tmp_path):
    save_model(model, tmp_path / "theirs")
    save_model(model, tmp_path / "ours", licence=OWN_LICENCE)
    assert provenance(tmp_path / "theirs")["licence"] == LICENCE
    assert "non-commercial" in LICENCE
    assert provenance(tmp_path / "ours")["licence"] == provenance("mini")["licence"] == "CC BY 4.0"
    assert "CC BY 4.0" in (PACKAGED / "mini" / "MODEL_CARD.md").read_text()


def test_the_hubs_cache_says_which_commit_it_is(model, tmp_path):
    commit = "ab" * 20
    save_model(model, tmp_path / "snapshots" / commit)
    assert provenance(tmp_path / "snapshots" / commit)["commit"] == commit
    save_model(model, tmp_path / "snapshots" / "mine")
    assert provenance(tmp_path / "snapshots" / "mine")["commit"] is None
