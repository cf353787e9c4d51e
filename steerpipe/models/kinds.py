"""Which of the three kinds of model a folder holds, from the names and settings of its files alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from ..config.model import KINDS
from ..errors import SteerError
from .base import CellModel, Sizes

AIDO, SCGPT, GENEFORMER = KINDS
FOLDERS = {
    AIDO: "config.json (model_type cellfoundation) with model.safetensors or pytorch_model.bin",
    SCGPT: "args.json, vocab.json and best_model.pt",
    GENEFORMER: "config.json (model_type bert), model.safetensors and genes.csv (steerpipe.models.geneformer_tables makes it)",
}
"""The files of each kind."""


class Folder(Protocol):
    """What the module of a kind does with a folder: steerpipe.models.scgpt_folder, .geneformer_folder."""

    FILES: Sequence[str]
    LICENCE: str

    def load(self, folder: Path) -> CellModel:
        """Return the network, float32, on the CPU."""

    def read_sizes(self, folder: Path) -> Sizes:
        """Return its sizes, without its weights."""

    def read_genes(self, folder: Path) -> tuple[str, ...]:
        """Return its vocabulary, without its weights."""

    def read_has_head(self, folder: Path) -> bool:
        """Return whether objectives may be put on what it predicts."""

    def read_licence(self, folder: Path) -> str:
        """Return the licence of its weights."""


def other_kind(folder: Path) -> Folder | None:
    """Return how a folder that is not AIDO.Cell's is read; None for AIDO.Cell, whose files models.checkpoints reads.

    Raises
    ------
    SteerError
        The folder's files are of two kinds, or of none.
    """
    kind = kind_of(folder)
    if kind == AIDO:
        return None
    module = "scgpt_folder" if kind == SCGPT else "geneformer_folder"
    return cast(Folder, importlib.import_module(f".{module}", __package__))


def kind_of(folder: Path) -> str:
    """Return the kind of a model's folder; AIDO where nothing says otherwise, so that its reader says what is missing.

    Raises
    ------
    SteerError
        The folder's files are of two kinds, or of none.
    """
    has = {name: (folder / name).is_file() for name in ("config.json", "args.json", "vocab.json", "best_model.pt", "genes.csv")}
    if has["config.json"] and (has["args.json"] or has["best_model.pt"]):
        odd = "args.json" if has["args.json"] else "best_model.pt"
        raise SteerError(f"{folder} has config.json and {odd}, files of two models: give each a folder ({all_kinds()}).")
    if has["args.json"] or has["best_model.pt"]:
        missing = [name for name in ("args.json", "vocab.json", "best_model.pt") if not has[name]]
        if missing:
            raise SteerError(
                f"{folder} looks like scGPT's, but has no {' and no '.join(missing)}; {SCGPT} is {FOLDERS[SCGPT]}."
            )
        if has["genes.csv"]:
            raise SteerError(f"{folder} has args.json and genes.csv, files of two models: give each a folder ({all_kinds()}).")
        return SCGPT
    if has["genes.csv"] and not has["config.json"]:
        raise SteerError(f"{folder} looks like Geneformer's, but has no config.json; {GENEFORMER} is {FOLDERS[GENEFORMER]}.")
    kind = _model_type(folder) if has["config.json"] else None
    if kind == "bert":
        return GENEFORMER
    if kind not in (None, "cellfoundation"):
        raise SteerError(f"{folder}/config.json: model_type={kind!r} is no model that steer knows: {all_kinds()}.")
    return AIDO


def read_json(file: Path) -> dict[str, Any]:
    """Return a model's settings.

    Raises
    ------
    SteerError
        The file is no JSON of settings.
    """
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SteerError(f"{file} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise SteerError(f"{file} is not JSON of a model's settings: a {type(found).__name__}.")
    return found


def check_weights(model: nn.Module, state: Mapping[str, Tensor], folder: Path, whose: str, says: str) -> None:
    """Refuse weights that are not a network's.

    Parameters
    ----------
    whose, says : in messages, whose they should be, and how the file that has the sizes says them

    Raises
    ------
    SteerError
        Keys are missing or unknown, or a tensor has another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        what = f"{len(missing)} keys missing {missing[:2]}, {len(extra)} unknown {extra[:2]}"
        raise SteerError(f"{folder}: the weights are not {whose}: {what}.")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise SteerError(f"{folder}: {name} has shape {tuple(state[name].shape)}{says} {shape}.")


def _model_type(folder: Path) -> str | None:
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None  # AIDO.Cell's reader says what is wrong with it
    kind = found.get("model_type") if isinstance(found, dict) else None
    return None if kind is None else str(kind)


def all_kinds() -> str:
    """Return the files of each kind, in words for a message."""
    return "; ".join(f"{kind}: {files}" for kind, files in FOLDERS.items())
