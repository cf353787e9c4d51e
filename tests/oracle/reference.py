"""The published AIDO.Cell network (modelgenerator's copy) with random weights, made to compute what it was trained to.

Its module takes flash-attn where that is installed. Without it, it hands SDPA tensors of shape (cells * tokens, heads,
head_dim), so that each token attends across its own heads alone, and says nothing. `attention()` puts a right stand-in
in flash-attn's place for a while.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

MODULE = "modelgenerator.huggingface_models.cellfoundation"
FIXED = {
    "_use_flash_attention_2": True,
    "add_linear_bias": False,
    "normalization_type": "LayerNorm",
    "position_embedding_type": "absolute",
    "architectures": ["CellFoundationForMaskedLM"],
}
"""Settings of the released checkpoints that differ from the defaults of the published code."""


class Sizes(NamedTuple):
    """One configuration's name and sizes."""

    name: str
    width: int
    layers: int
    heads: int
    inner: int
    positions: int = 19_264

    @property
    def settings(self) -> dict[str, Any]:
        """What a released config.json says."""
        return FIXED | {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
        }


SMALL = Sizes("small", 32, 2, 2, 48, 200)
S3M = Sizes("3M", 128, 6, 4, 320)
S10M = Sizes("10M", 256, 8, 8, 640)
S100M = Sizes("100M", 640, 18, 20, 1664)


class Result(NamedTuple):
    """streams: (B, S, D) after each block, before the final LayerNorm; final: after it; logits: (B, S)."""

    streams: list[Tensor]
    final: Tensor
    logits: Tensor


def modeling() -> ModuleType:
    """Return the published module; neither flash-attn nor the package's other requirements are needed to import it."""
    return importlib.import_module(f"{MODULE}.modeling_cellfoundation")


def build(sizes: Sizes, *, seed: int = 0) -> Any:
    """Return the published network, every parameter random: LayerNorms and biases too, attention far from uniform."""
    settings = importlib.import_module(f"{MODULE}.configuration_cellfoundation").CellFoundationConfig(**sizes.settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)  # the constructor draws too
        model = modeling().CellFoundationForMaskedLM(settings)
        for name, parameter in model.named_parameters():
            fan_in = parameter.shape[-1] if parameter.ndim == 2 and "embedding.weight" not in name else 4
            parameter.add_(torch.randn_like(parameter), alpha=fan_in**-0.5)
    return model.eval().requires_grad_(False)


def stand_in(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, *rest: Any, softmax_scale: float, causal: bool) -> Tensor:
    """flash_attn_varlen_func for cells of one length and no dropout: (B * S, H, head_dim) to the same."""
    assert not causal
    q, k, v = (x.unflatten(0, (len(cu_q) - 1, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2).flatten(0, 1)


@contextlib.contextmanager
def attention(*, mask: bool = True) -> Iterator[None]:
    """Give the published module a right attention; `mask=False` also spares it the S x S mask, which changes nothing."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(modeling(), "flash_attn_varlen_func", stand_in, create=True))
        if not mask:
            stack.enter_context(patch.object(modeling(), "bert_extended_attention_mask", lambda m: m[:, None, None] < 0.5))
        yield


def run(model: Any, values: Tensor, position_ids: Tensor | None = None) -> Result:
    """Run the published network on (B, S) values; the streams come from hooks.

    Its own hidden_states would not do: the last of them is after the final LayerNorm.
    """
    streams: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: streams.append(output[0]))
        for layer in model.bert.encoder.layer
    ]
    if position_ids is not None:
        position_ids = position_ids.expand(len(values), -1)
    with torch.no_grad():
        output = model(values, position_ids=position_ids, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return Result(streams, output.hidden_states[-1], output.logits[..., 0])


def save(model: Any, folder: Path, *, form: str) -> Path:
    """Write a checkpoint folder as it is released: config.json and `form`, pytorch_model.bin or model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.to_json_file(folder / "config.json", use_diff=False)
    state = model.state_dict()
    if form == "model.safetensors":
        save_file({key: value.clone() for key, value in state.items()}, folder / form)  # the tied bias is there twice
    else:
        torch.save(state, folder / form)
    positions = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    if positions != S3M.positions:
        (folder / "genes.txt").write_text("\n".join(f"g{i}" for i in range(positions)) + "\n")
    return folder
