"""SAEs on disk: SAELens' layout (cfg.json and sae_weights.safetensors), and the file of the published AIDO.Cell SAEs.

SAELens applies relu to its codes. An SAE of ours with activation relu, or with thresholds that are not negative, is exactly
the same there. With activation identity codes are signed: a token is encoded equally wherever its k-th largest pre-activation
is not negative, and elsewhere SAELens reads the negative codes as 0. cfg.json says which of the two it is (metadata.saelens).

A gene-centred SAE cannot be folded into SAELens' layout, which has one bias for all tokens: with the weights alone, raw tokens
would be read wrongly and without a word. Its b_pre (G, D) is stored with the weights, its genes in cfg.json (metadata.genes),
and its architecture has a name that SAELens does not know and so refuses, such as topk_gene_centred.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import SteerError
from .model import ThresholdSAE, TopKSAE

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
CENTRED = "_gene_centred"
ARCHITECTURES = {"topk": TopKSAE, "jumprelu": ThresholdSAE, "standard": ThresholdSAE}
"""By SAELens' names; what batchtopk training makes is saved as jumprelu there too, and standard is a threshold of 0."""
ARCHITECTURES |= {name + CENTRED: ARCHITECTURES[name] for name in ("topk", "jumprelu")}
LAYOUT_SINCE = "6.0.0"
"""The SAELens version whose layout is written. Without one it takes a file for an older kind, and drops the metadata."""
LAYOUT = ("cfg.json", "sae_weights.safetensors")
PUBLISHED = "topk_sae.pt"
"""What the published training script calls its file."""
TENSORS = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}

PLAIN = {
    "normalize_activations": "none",
    "reshape_activations": "none",
    "finetuning_scaling_factor": False,
    "activation_fn_str": "relu",
    "activation_fn": "relu",
}
"""SAELens options, older ones too, that change what the weights mean; only these values are read."""


def save_sae(sae: TopKSAE, folder: Path, metadata: dict[str, Any]) -> None:
    """Write an SAE. b_pre is folded into the biases, so that a reader needs to know nothing of it; not so that of genes."""
    folder.mkdir(parents=True, exist_ok=True)
    threshold = isinstance(sae, ThresholdSAE)
    exact = sae.activation == "relu" or (isinstance(sae, ThresholdSAE) and bool((sae.threshold >= 0).all()))
    with torch.no_grad():
        names = (*WEIGHTS, *(["threshold"] if threshold else []), *(["b_pre"] if sae.gene_centred else []))
        state = {name: getattr(sae, name).detach().cpu().clone().contiguous() for name in names}
        if not sae.gene_centred:
            state["b_enc"] -= sae.b_pre.cpu() @ state["W_enc"]
            state["b_dec"] += sae.b_pre.cpu()
    saelens = "exact" if exact else "codes below 0 are read as 0"
    if sae.gene_centred:
        metadata = metadata | {"genes": sae.genes}
        saelens = "refused: codes are of a token less the b_pre of its gene"
    cfg = {
        "architecture": ("jumprelu" if threshold else "topk") + (CENTRED if sae.gene_centred else ""),
        "d_in": sae.W_enc.shape[0],
        "d_sae": sae.n_features,
        **({} if threshold else {"k": sae.k}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "reshape_activations": "none",
        "metadata": metadata
        | {"activation": sae.activation, "unit_norm": sae.unit_norm, "k": sae.k}
        | {"saelens": saelens, "sae_lens_version": LAYOUT_SINCE},
    }
    (folder / "cfg.json").write_text(json.dumps(cfg, indent=1))
    save_file(state, folder / "sae_weights.safetensors")


def sae_files(path: Path) -> list[Path]:
    """Return the files that an SAE is read from: the file itself, or those of a folder in either format."""
    if not path.is_dir():
        return [path]
    return [path / PUBLISHED] if (path / PUBLISHED).is_file() else [path / name for name in LAYOUT]


def import_sae(path: Path) -> TopKSAE:
    """Read an SAE that was trained elsewhere: a published file, or a folder with one, or a folder in SAELens' layout."""
    files = sae_files(path)
    return load_published(files[0]) if len(files) == 1 else load_sae(path)


def load_published(path: Path) -> TopKSAE:
    """Read a published SAE: a torch file of `model_state_dict`, `expansion`, `k` and `use_b_pre`.

    Its definition is encoder(x - b_pre), of which the k largest *values* (not magnitudes) are kept with their signs, then
    decoder(z) + b_pre; encoder.weight is (F, D), decoder.weight (D, F), and without use_b_pre there is no b_pre.

    Returns
    -------
    TopKSAE float32, activation identity; its b_pre is kept apart

    Raises
    ------
    SteerError
        The file is missing, is not of that format, or its sizes contradict each other.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        msg = f"no SAE in {path}; sae.path takes a published {PUBLISHED} or a folder with {' and '.join(LAYOUT)}."
        raise SteerError(msg) from error
    except Exception as error:  # pickle raises many types for a broken file
        raise SteerError(f"{path} cannot be read as an SAE ({type(error).__name__}); fetch the file again.") from error
    types = {"model_state_dict": dict, "expansion": int, "k": int}
    missing = [name for name, kind in types.items() if not isinstance(found, dict) or not isinstance(found.get(name), kind)]
    if missing:
        raise SteerError(f"{path} is no published SAE: it lacks {', '.join(missing)}; the file to take is {PUBLISHED}.")
    # a model wrapped for several devices has this before every name
    state = {name.removeprefix("module."): tensor for name, tensor in found["model_state_dict"].items()}
    names = TENSORS | ({"b_pre": "b_pre"} if found.get("use_b_pre", "b_pre" in state) else {})
    absent = [name for name in names.values() if name not in state]
    if absent:
        raise SteerError(f"{path}: the SAE's weights lack {', '.join(absent)}.")
    n_features, width = state["encoder.weight"].shape if state["encoder.weight"].ndim == 2 else (-1, 0)
    if n_features != found["expansion"] * width:
        raise SteerError(f"{path}: expansion={found['expansion']} of width {width} does not give its {n_features} features.")
    sae = _sized(width, n_features, found["k"], path, activation="identity", unit_norm=False)
    turned = {ours: state[theirs].T if state[theirs].ndim == 2 else state[theirs] for ours, theirs in names.items()}
    return _filled(sae, turned, tuple(names), path)


def load_sae(folder: Path) -> TopKSAE:
    """Read an SAE of the topk, jumprelu or standard architecture in SAELens' layout, or one of ours that is gene-centred.

    Its apply_b_dec_to_input and rescale_acts_by_decoder_norm are folded into the weights, which keeps its codes.

    Raises
    ------
    SteerError
        A file is missing or broken, the architecture is another, or an option changes what the weights mean.
    """
    try:
        cfg = json.loads((folder / LAYOUT[0]).read_text())
        state = load_file(folder / LAYOUT[1])
    except OSError as error:
        raise SteerError(f"no SAE in {folder}: {' and '.join(LAYOUT)} are needed ({error}).") from error
    except (ValueError, SafetensorError) as error:
        raise SteerError(f"the SAE in {folder} cannot be read ({type(error).__name__}); fetch the files again.") from error
    kind = ARCHITECTURES.get(cfg.get("architecture"))
    if kind is None:
        msg = f"{folder}: architecture {cfg.get('architecture')!r} is not supported, only {', '.join(ARCHITECTURES)}."
        raise SteerError(msg)
    for key, plain in PLAIN.items():
        if cfg.get(key, plain) not in (plain, None):
            raise SteerError(f"{folder}/{LAYOUT[0]}: {key}={cfg[key]!r} is not supported, only {plain!r}.")
    meta = cfg.get("metadata") or {}
    if kind is ThresholdSAE:  # the number of active features is no part of its definition
        cfg["k"] = meta.get("k", 1)
    missing = [key for key in ("d_in", "d_sae", "k") if key not in cfg]
    if missing:
        raise SteerError(f"{folder}/{LAYOUT[0]} lacks {', '.join(missing)}.")
    centred = cfg["architecture"].endswith(CENTRED)
    if centred and not isinstance(meta.get("genes"), list):
        raise SteerError(f"{folder}/{LAYOUT[0]} lacks metadata.genes, whose means its SAE needs; fetch the files again.")
    # SAELens' own topk applies relu after TopK; ours marks its signed codes in the metadata
    options = {"activation": meta.get("activation", "relu"), "unit_norm": meta.get("unit_norm", False)}
    names = (*WEIGHTS, "threshold") if cfg["architecture"].startswith("jumprelu") else WEIGHTS
    sae = _sized(cfg["d_in"], cfg["d_sae"], cfg["k"], folder, kind=kind, **options)
    if centred:
        sae.centre_genes(torch.zeros(len(meta["genes"]), cfg["d_in"]), tuple(meta["genes"]))
        names = (*names, "b_pre")
    sae = _filled(sae, state, names, folder)
    with torch.no_grad():
        if cfg.get("apply_b_dec_to_input", True):  # SAELens' default
            sae.b_enc.sub_(sae.b_dec @ sae.W_enc)
        if cfg.get("rescale_acts_by_decoder_norm"):  # pre-activations times the norms are selected from, and are the codes
            norms = sae.W_dec.norm(dim=1).clamp_min(1e-8)
            sae.W_enc.mul_(norms)
            sae.b_enc.mul_(norms)
            sae.W_dec.div_(norms[:, None])
    return sae


def _sized(width: int, n_features: int, k: int, where: Path, *, kind: type[TopKSAE] = TopKSAE, **options: Any) -> TopKSAE:
    if not 0 < k <= n_features:
        raise SteerError(f"{where}: k={k} must lie between 1 and the {n_features} features.")
    return kind(width, n_features, k, **options)


def _filled(sae: TopKSAE, state: dict[str, Tensor], names: tuple[str, ...], where: Path) -> TopKSAE:
    """Copy tensors by name into an SAE, frozen; each must be there and have the SAE's own shape."""
    missing = [name for name in names if name not in state]
    if missing:
        raise SteerError(f"{where}: the SAE's weights lack {', '.join(missing)}.")
    with torch.no_grad():
        for name in names:
            mine: Tensor = getattr(sae, name)
            if mine.shape != state[name].shape:
                raise SteerError(f"{where}: {name} has shape {tuple(state[name].shape)}, not {tuple(mine.shape)}.")
            mine.copy_(state[name])
    return sae.eval().requires_grad_(False)
