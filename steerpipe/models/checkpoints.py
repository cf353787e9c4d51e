"""Checkpoints: a local folder of config.json and weights, and `mini`, the model that ships with the package."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.genes import gene_list
from ..digest import file_digest
from ..errors import SteerError
from .aido_cell import AidoCell, ArchConfig
from .preprocess import DepthRule

MINI = Path(str(files("steerpipe.models") / "weights" / "mini"))
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HEAD_BIAS = ("cls.predictions.bias", "cls.predictions.decoder.bias")
LICENCE = (
    "AIDO.Cell weights are under the GenBio AI Community License: non-commercial use only, activations and embeddings included."
)


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> AidoCell:
    """Load a model from a folder with config.json and model.safetensors or pytorch_model.bin.

    `genes.txt` beside them names the genes of positions 0..G-1; without it the 19,264-gene list is taken.

    Raises
    ------
    SteerError
        A file is missing, an option is not AIDO.Cell's, or keys and sizes do not fit.
    """
    folder = model_folder(path)
    arch = read_config(folder)
    genes = model_genes(path)
    if len(genes) != arch.max_position_embeddings:
        raise SteerError(
            f"{folder} has {len(genes)} genes for {arch.max_position_embeddings} positions; add a genes.txt that fits."
        )
    state = normalise_keys(_read_state(folder))
    model = AidoCell(arch, genes, head="cls.predictions.decoder.weight" in state)
    _check_shapes(model, state, folder)
    model.load_state_dict(state)
    return model.to(device).eval().requires_grad_(False)


def model_genes(path: str | Path) -> tuple[str, ...]:
    """Return the genes of a model's positions without reading its weights."""
    file = model_folder(path) / "genes.txt"
    return tuple(file.read_text().split()) if file.is_file() else gene_list()


def model_folder(path: str | Path) -> Path:
    """Return the folder that model.path means; `mini` is the one inside the package."""
    return MINI if str(path) == "mini" else Path(path).expanduser()


def model_digest(path: str | Path) -> str:
    """Return a digest of a model's weights and settings: its part of an artefact's key."""
    folder = model_folder(path)
    names = ("config.json", "genes.txt", *WEIGHTS)
    return "-".join(file_digest(folder / name) for name in names if (folder / name).is_file())


def read_config(folder: Path) -> ArchConfig:
    """Read a model folder's config.json."""
    try:
        settings = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        msg = f"no config.json in {folder}; model.path must be a folder with config.json and {' or '.join(WEIGHTS)}."
        raise SteerError(msg) from error
    except json.JSONDecodeError as error:
        raise SteerError(f"{folder}/config.json is not JSON: {error}.") from error
    return read_arch(settings, folder)


def read_arch(settings: dict[str, Any], where: Path | str) -> ArchConfig:
    """Read and check the sizes in a config.json; nothing falls back on the reference code's other defaults."""
    fixed = {"hidden_act": "swiglu", "normalization_type": "LayerNorm", "position_embedding_type": "absolute"}
    for key, wanted in fixed.items():
        if settings.get(key, wanted) != wanted:
            raise SteerError(f"{where}/config.json: {key}={settings[key]!r} is not supported, only {wanted!r}.")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    missing = [key for key in sizes if key not in settings]
    if missing:
        raise SteerError(f"{where}/config.json lacks {', '.join(missing)}.")
    depth = DepthRule(float(settings.get("depth_floor", 5.0)), float(settings.get("depth_fold", 1.0)))
    extra = {key: settings[key] for key in ("add_linear_bias", "bin_alpha") if key in settings}
    numbers: dict[str, Any] = {key: int(settings[key]) for key in sizes}
    return ArchConfig(**numbers, **extra, depth=depth)


def normalise_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Accept one or both of the tied output biases, an encoder without its `bert.` prefix, and stray buffers."""
    state = {k: v for k, v in state.items() if not k.endswith(("position_ids", "bin_num_idx"))}
    if not any(k.startswith("bert.") for k in state):
        state = {f"bert.{k}": v for k, v in state.items()}
    biases = [state.pop(key) for key in HEAD_BIAS if key in state]
    if len(biases) == 2 and not torch.equal(biases[0], biases[1]):
        raise SteerError(f"the checkpoint's {HEAD_BIAS[0]} and {HEAD_BIAS[1]} differ; they are one tensor in AIDO.Cell.")
    if biases:
        state[HEAD_BIAS[1]] = biases[0]
    return state


def save_model(model: AidoCell, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write config.json, genes.txt and model.safetensors (tensors in `dtype`); load_model reads them back as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = asdict(model.arch)
    depth = settings.pop("depth")
    settings |= {"depth_floor": depth["floor"], "depth_fold": depth["fold"], "model_type": "cellfoundation"}
    settings |= {"hidden_act": "swiglu", "normalization_type": "LayerNorm", "position_embedding_type": "absolute"}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "genes.txt").write_text("\n".join(model.genes) + "\n")
    save_file({k: v.detach().to(dtype).contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS[0])


def _read_state(folder: Path) -> dict[str, Tensor]:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise SteerError(f"no weights in {folder}: neither {WEIGHTS[0]} nor {WEIGHTS[1]}.")
    try:
        safe = found.suffix == ".safetensors"
        state = load_file(found) if safe else torch.load(found, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise many types for a broken file
        raise SteerError(f"{found} cannot be read as weights ({type(error).__name__}); fetch the file again.") from error
    return {k: v.float() for k, v in state.items()}


def _check_shapes(model: AidoCell, state: dict[str, Tensor], folder: Path) -> None:
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        what = f"{len(missing)} keys missing {missing[:2]}, {len(extra)} unknown {extra[:2]}"
        msg = f"{folder}: the weights are not AIDO.Cell's: {what}."
        raise SteerError(msg)
    for key, shape in wanted.items():
        if tuple(state[key].shape) != shape:
            raise SteerError(f"{folder}: {key} has shape {tuple(state[key].shape)}, config.json says {shape}.")
