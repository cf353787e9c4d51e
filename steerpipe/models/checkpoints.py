"""Checkpoints: `mini` inside the package, a folder of config.json and weights, or a model on the hub."""

from __future__ import annotations

import json
import logging
import re
import zipfile
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import EMBEDDED
from ..data.genes import gene_list
from ..digest import file_digest
from ..errors import SteerError
from .aido_cell import LN_EPS, AidoCell, ArchConfig
from .base import CellModel, Sizes
from .hub import WEIGHTS, commit_of, fetch, is_hub_id
from .kinds import all_kinds, check_weights, other_kind
from .preprocess import MASK, DepthRule

log = logging.getLogger(__name__)
PACKAGED = Path(str(files("steerpipe.models") / "weights"))
HEAD = "cls.predictions.decoder.weight"
HEAD_BIAS = ("cls.predictions.bias", "cls.predictions.decoder.bias")
RELEASED = {
    "genbio-ai/AIDO.Cell-3M": (128, 6, 4, 320),
    "genbio-ai/AIDO.Cell-10M": (256, 8, 8, 640),
    "genbio-ai/AIDO.Cell-100M": (640, 18, 20, 1664),
}
"""Width, blocks, heads and MLP width of the released checkpoints."""
LICENCE = (
    "AIDO.Cell weights are under the GenBio AI Community License: non-commercial use only, activations and embeddings included."
)
OWN_LICENCE = "CC BY 4.0"
"""Licence of the models that `steer pretrain` makes."""

FIXED: dict[str, Any] = {
    "hidden_act": "swiglu",
    "normalization_type": "LayerNorm",
    "position_embedding_type": "absolute",
    "layer_norm_eps": LN_EPS,
    "mask_token_id": int(MASK),
    "pad_token_id": -2,
}
"""What every released AIDO.Cell has in config.json; the network here knows nothing else."""


def load_model(path: str | Path, revision: str | None = None, *, device: str | torch.device = "cpu") -> CellModel:
    """Load a model of any kind (models.kinds) from its folder, or an AIDO.Cell from the hub; frozen, float32.

    `genes.txt` beside them names the genes of positions 0..G-1; without it the 19,264-gene list is taken. A file of the
    encoder alone gives a model without an output head.

    Parameters
    ----------
    path : `mini`, a folder or a hub id (owner/name)
    revision : commit, tag or branch of a hub id; None is main

    Raises
    ------
    SteerError
        A file is missing, an option is not AIDO.Cell's, or keys and sizes do not fit.
    """
    folder = model_folder(path, revision)
    if (kind := other_kind(folder)) is not None:
        return kind.load(folder).to(device)
    return _load_aido(folder, device)


def load_aido(path: str | Path, *, device: str | torch.device = "cpu") -> AidoCell:
    """Load an AIDO.Cell from a folder: what `steer pretrain` starts from and makes."""
    return _load_aido(model_folder(path), device)


def _load_aido(folder: Path, device: str | torch.device) -> AidoCell:
    arch = _read_arch(folder)
    state = normalise_keys(_read_state(folder))
    _check_sizes(state, arch, folder)
    genes = _genes(folder)
    if len(genes) != arch.max_position_embeddings:
        raise SteerError(
            f"{folder} has {len(genes)} genes for {arch.max_position_embeddings} positions; add a genes.txt that fits."
        )
    model = AidoCell(arch, genes, head=HEAD in state)
    check_weights(model, state, folder, "AIDO.Cell's", ", config.json says")
    model.load_state_dict(state)
    return model.to(device).eval().requires_grad_(False)


def model_genes(path: str | Path, revision: str | None = None) -> tuple[str, ...]:
    """Return the genes of a model's positions without reading its weights."""
    folder = model_folder(path, revision)
    kind = other_kind(folder)
    return _genes(folder) if kind is None else kind.read_genes(folder)


def _genes(folder: Path) -> tuple[str, ...]:
    file = folder / "genes.txt"
    return tuple(file.read_text().split()) if file.is_file() else gene_list()


def model_folder(path: str | Path, revision: str | None = None) -> Path:
    """Return the folder that model.path means: `mini` is one inside the package, a hub id that of the hub's cache."""
    if str(path) in EMBEDDED:
        return PACKAGED / path
    return fetch(str(path), revision) if is_hub_id(path) else Path(path).expanduser()


def model_digest(path: str | Path, revision: str | None = None) -> str:
    """Return a digest of a model's weights and settings: its part of an artefact's key."""
    folder = model_folder(path, revision)
    kind = other_kind(folder)
    names = ("config.json", "genes.txt", *WEIGHTS) if kind is None else kind.FILES
    return "-".join(file_digest(folder / name) for name in names if (folder / name).is_file())


def provenance(path: str | Path, revision: str | None = None) -> dict[str, str | None]:
    """Return where a model comes from and its licence: path, revision as asked for, commit as found, licence.

    A model made by steerpipe names its licence in config.json; any other checkpoint of its kind is taken to be AIDO.Cell's.
    """
    folder = model_folder(path, revision)
    if (kind := other_kind(folder)) is not None:
        return {"model": str(path), "revision": None, "commit": commit_of(folder), "licence": kind.read_licence(folder)}
    asked = (revision or "main") if is_hub_id(path) and folder.parent != PACKAGED else None
    licence = OWN_LICENCE if folder.parent == PACKAGED else _settings(folder).get("licence", LICENCE)
    return {"model": str(path), "revision": asked, "commit": commit_of(folder), "licence": str(licence)}


def has_head(folder: Path) -> bool:
    """Return whether a folder's weights include the output head, from the file's index alone."""
    if (kind := other_kind(folder)) is not None:
        return kind.read_has_head(folder)
    found = _weights_file(folder)
    if found.suffix != ".safetensors":
        return HEAD in _load_bin(found)
    try:
        with safe_open(found, "pt") as file:
            return HEAD in set(file.keys())
    except Exception as error:
        raise _unreadable(found, error) from error


def released_arch(path: str | Path) -> ArchConfig | None:
    """Return the sizes of a released AIDO.Cell by its hub id, None for any other model; nothing is fetched."""
    sizes = RELEASED.get(str(path)) if is_hub_id(path) else None
    return None if sizes is None else ArchConfig(*sizes, max_position_embeddings=len(gene_list()))


def read_config(folder: Path) -> Sizes:
    """Return the sizes of a model of any kind."""
    kind = other_kind(folder)
    return _read_arch(folder) if kind is None else kind.read_sizes(folder)


def _read_arch(folder: Path) -> ArchConfig:
    return read_arch(_settings(folder), folder)


def read_arch(settings: dict[str, Any], where: Path | str) -> ArchConfig:
    """Read and check the sizes in a config.json; nothing falls back on the reference code's other defaults."""
    for key, wanted in FIXED.items():
        if settings.get(key, wanted) != wanted:
            raise SteerError(f"{where}/config.json: {key}={settings[key]!r} is not supported, only {wanted!r}.")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    missing = [key for key in sizes if key not in settings]
    if missing:
        raise SteerError(f"{where}/config.json lacks {', '.join(missing)}.")
    for key in sizes:
        if type(settings[key]) is not int or settings[key] < 1:
            raise SteerError(f"{where}/config.json: {key}={settings[key]!r} must be a whole number above 0.")
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    if width % heads:
        raise SteerError(f"{where}/config.json: hidden_size={width} does not divide by num_attention_heads={heads}.")
    depth = DepthRule(float(settings.get("depth_floor", 5.0)), float(settings.get("depth_fold", 1.0)))
    extra = {key: settings[key] for key in ("add_linear_bias", "bin_alpha") if key in settings}
    numbers: dict[str, Any] = {key: settings[key] for key in sizes}
    return ArchConfig(**numbers, **extra, depth=depth)


def normalise_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Accept both, either or neither of the tied output biases, an encoder without its `bert.` prefix, and stray buffers."""
    state = {k: v for k, v in state.items() if not k.endswith(("position_ids", "bin_num_idx"))}
    if not any(k.startswith("bert.") for k in state):
        state = {f"bert.{k}": v for k, v in state.items()}
    biases = [state.pop(key) for key in HEAD_BIAS if key in state]
    if len(biases) == 2 and not torch.equal(biases[0], biases[1]):
        raise SteerError(f"the checkpoint's {HEAD_BIAS[0]} and {HEAD_BIAS[1]} differ; they are one tensor in AIDO.Cell.")
    if biases:
        state[HEAD_BIAS[1]] = biases[0]
    elif HEAD in state:
        # one number added to every prediction: distances and differences do not see it
        log.warning("the checkpoint has an output head without a bias (%s); it is taken as 0.", HEAD_BIAS[1])
        state[HEAD_BIAS[1]] = state[HEAD].new_zeros(1)
    return state


def save_model(model: AidoCell, folder: Path, *, dtype: torch.dtype = torch.float16, licence: str | None = None) -> None:
    """Write config.json, genes.txt and model.safetensors (tensors in `dtype`); load_model reads them back as float32.

    `licence` is the weights' own; without one they count as AIDO.Cell's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = asdict(model.arch)
    depth = settings.pop("depth")
    settings |= {"depth_floor": depth["floor"], "depth_fold": depth["fold"], "model_type": "cellfoundation"}
    settings |= {"hidden_act": "swiglu", "normalization_type": "LayerNorm", "position_embedding_type": "absolute"}
    if licence is not None:
        settings["licence"] = licence
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "genes.txt").write_text("\n".join(model.genes) + "\n")
    save_file({k: v.detach().to(dtype).contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS[0])


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"no config.json in {folder}" if folder.is_dir() else f"no config.json in {folder}, which is no folder"
        raise SteerError(f"{what}; a model is a folder ({all_kinds()}), or a hub id.") from error
    except ValueError as error:  # not JSON, or not even text
        raise SteerError(f"{folder}/config.json is not JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise SteerError(f"{folder}/config.json is not JSON of a model's settings: a {type(settings).__name__}.")
    return settings


def _weights_file(folder: Path) -> Path:
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise SteerError(f"no weights in {folder}: neither {WEIGHTS[0]} nor {WEIGHTS[1]}.")
    return found


def _read_state(folder: Path) -> dict[str, Tensor]:
    found = _weights_file(folder)
    if found.suffix != ".safetensors":
        return {k: v.float() for k, v in _load_bin(found).items()}
    try:
        return {k: v.float() for k, v in load_file(found).items()}
    except Exception as error:  # safetensors raises many types for a broken file
        raise _unreadable(found, error) from error


def _load_bin(found: Path) -> dict[str, Tensor]:
    """Read a .bin without running its pickle; tensors of today's format stay on disk until they are used."""
    try:
        state = torch.load(found, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(found))
    except Exception as error:  # and so does pickle
        raise _unreadable(found, error) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SteerError(f"{found} cannot be read as weights: it is no table of tensors; save the model's state_dict() alone.")
    return state


def _unreadable(found: Path, error: Exception) -> SteerError:
    return SteerError(f"{found} cannot be read as weights ({type(error).__name__}); fetch the file again.")


def _check_sizes(state: dict[str, Tensor], arch: ArchConfig, folder: Path) -> None:
    """Compare the sizes that the tensors have with config.json's, before a hundred shapes differ."""
    found: dict[str, int] = {}
    layers = [int(hit[1]) for key in state if (hit := re.match(r"bert\.encoder\.layer\.(\d+)\.", key))]
    if layers:
        found["num_hidden_layers"] = 1 + max(layers)
    for name, key, axis, extra in (
        ("hidden_size", "bert.gene_embedding.lookup_table.weight", 1, 0),
        ("intermediate_size", "bert.encoder.layer.0.mlp.up_proj.weight", 0, 0),
        ("max_position_embeddings", "bert.position_embedding.weight", 0, 2),
    ):
        if key in state and state[key].ndim == 2:
            found[name] = state[key].shape[axis] - extra
    wrong = {name: size for name, size in found.items() if size != getattr(arch, name)}
    if wrong:
        says = ", ".join(f"{name}={getattr(arch, name)}" for name in wrong)
        have = ", ".join(f"{name}={size}" for name, size in wrong.items())
        raise SteerError(f"{folder}: config.json says {says}; the weights have {have}.")
