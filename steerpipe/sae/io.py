"""SAEs on disk in SAELens' layout: cfg.json and sae_weights.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import SteerError
from .model import TopKSAE

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


def save_sae(sae: TopKSAE, folder: Path, metadata: dict[str, Any]) -> None:
    """Write an SAE. b_pre is folded into the biases, so that a reader needs to know nothing of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        state = {name: getattr(sae, name).detach().cpu().clone().contiguous() for name in WEIGHTS}
        state["b_enc"] -= sae.b_pre.cpu() @ state["W_enc"]
        state["b_dec"] += sae.b_pre.cpu()
    cfg = {
        "architecture": "topk",
        "d_in": sae.W_enc.shape[0],
        "d_sae": sae.n_features,
        "k": sae.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "reshape_activations": "none",
        "metadata": metadata | {"activation": sae.activation, "unit_norm": sae.unit_norm},
    }
    (folder / "cfg.json").write_text(json.dumps(cfg, indent=1))
    save_file(state, folder / "sae_weights.safetensors")


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE of the TopK architecture.

    Raises
    ------
    SteerError
        A file is missing, or the architecture is not topk.
    """
    try:
        cfg = json.loads((folder / "cfg.json").read_text())
        state = load_file(folder / "sae_weights.safetensors")
    except OSError as error:
        raise SteerError(f"no SAE in {folder}: cfg.json and sae_weights.safetensors are needed ({error}).") from error
    if cfg.get("architecture") != "topk":
        raise SteerError(f"{folder}: architecture {cfg.get('architecture')!r} is not supported, only 'topk'.")
    meta = cfg.get("metadata", {})
    # SAELens' own topk applies relu after TopK; ours marks its signed codes in the metadata
    sae = TopKSAE(
        cfg["d_in"], cfg["d_sae"], cfg["k"], activation=meta.get("activation", "relu"), unit_norm=meta.get("unit_norm", False)
    )
    with torch.no_grad():
        if cfg.get("apply_b_dec_to_input"):
            state["b_enc"] = state["b_enc"] - state["b_dec"] @ state["W_enc"]
        for name in WEIGHTS:
            getattr(sae, name).copy_(state[name])
    return sae.eval().requires_grad_(False)
