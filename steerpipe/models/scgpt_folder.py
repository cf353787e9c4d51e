"""A folder of scGPT's: args.json, vocab.json and best_model.pt, as its authors give them out."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import SteerError
from .kinds import check_weights, read_json
from .scgpt import Scgpt, ScgptSizes

log = logging.getLogger(__name__)
FILES = ("args.json", "vocab.json", "best_model.pt")
LICENCE = "scGPT's code and weights are under the MIT License (bowang-lab/scGPT)."
HEAD = "decoder.fc.4.weight"
SPECIAL = re.compile(r"<.*>")
UNUSED = ("cls_decoder.", "mvc_decoder.", "flag_encoder.", "grad_reverse_discriminator.", "sim.", "decoder.zero_logit.")
"""Parts of a checkpoint that are not run here: other training tasks' heads."""


def read_sizes(folder: Path) -> ScgptSizes:
    """Read and check args.json."""
    settings, where = read_json(folder / "args.json"), folder / "args.json"
    wanted = ("embsize", "nlayers", "nheads", "d_hid", "n_bins", "max_seq_len")
    missing = [name for name in wanted if not isinstance(settings.get(name), int)]
    if missing:
        raise SteerError(f"{where}: {', '.join(missing)} must be whole numbers.")
    fixed: dict[str, Any] = {"input_style": "binned", "input_emb_style": "continuous", "pad_token": "<pad>"}
    for name, value in fixed.items():
        if settings.get(name, value) != value:
            raise SteerError(f"{where}: {name}={settings[name]!r} is not supported, only {value!r}.")
    if settings["embsize"] % settings["nheads"]:
        raise SteerError(f"{where}: embsize={settings['embsize']} does not divide by nheads={settings['nheads']}.")
    # max_seq_len counts <cls>
    return ScgptSizes(
        settings["embsize"],
        settings["nlayers"],
        settings["nheads"],
        settings["d_hid"],
        max_position_embeddings=settings["max_seq_len"] - 1,
        n_bins=settings["n_bins"],
        cls_value=float(settings.get("pad_value", -2)),
        vocabulary=1 + max(_vocabulary(folder).values()),
    )


def read_genes(folder: Path) -> tuple[str, ...]:
    """Return the vocabulary's genes, in the order of their rows."""
    rows = _vocabulary(folder)
    return tuple(name for name in sorted(rows, key=rows.__getitem__) if not SPECIAL.fullmatch(name))


def read_has_head(folder: Path) -> bool:
    """Return whether the checkpoint has the expression decoder."""
    return HEAD in _read_state(folder / "best_model.pt")


def read_licence(folder: Path) -> str:
    """Return args.json's own `licence`, or scGPT's."""
    return str(read_json(folder / "args.json").get("licence", LICENCE))


def load(folder: Path) -> Scgpt:
    """Return the network, float32, frozen, on the CPU.

    Raises
    ------
    SteerError
        A file is missing or broken, a setting is not supported, or keys and sizes do not fit.
    """
    sizes, rows, genes = read_sizes(folder), _vocabulary(folder), read_genes(folder)
    state = _renamed(_read_state(folder / "best_model.pt"), folder)
    model = Scgpt(sizes, genes, np.array([*(rows[gene] for gene in genes), rows["<cls>"]]), head=HEAD in state)
    check_weights(model, state, folder, "those of the scGPT that args.json describes", "; args.json and vocab.json say")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _renamed(state: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors by the names of torch's encoder layer, without what is not run."""
    if any(name.startswith(("bn.", "dsbn.", "batch_encoder.")) for name in state):
        raise SteerError(f"{folder}: the weights were fine-tuned with batch labels or a batch norm, which are not supported.")
    names = {name: name.removeprefix("module.").replace(".self_attn.Wqkv.", ".self_attn.in_proj_") for name in state}
    return {new: state[old].float() for old, new in names.items() if not new.startswith(UNUSED)}


def _vocabulary(folder: Path) -> dict[str, int]:
    """{token: row}."""
    found = read_json(folder / "vocab.json")
    if not all(isinstance(row, int) for row in found.values()) or len(set(found.values())) < len(found):
        raise SteerError(f"{folder}/vocab.json must give every token a row of its own.")
    if "<cls>" not in found:
        raise SteerError(f"{folder}/vocab.json has no <cls>.")
    return found


def _read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .pt, without running its pickle; those of today's format stay on disk until they are used."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # pickle raises many types for a broken file
        raise SteerError(f"{file} cannot be read as weights ({type(error).__name__}); fetch the file again.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SteerError(f"{file} cannot be read as weights: it is no table of tensors; save the model's state_dict() alone.")
    return state
