"""What every stage says and checks of the model's checkpoint before anything is computed."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from ..config import EMBEDDED, Config, ModelConfig
from ..errors import SteerError
from ..models.checkpoints import has_head, model_folder, provenance, read_config, released_arch
from ..models.kinds import FOLDERS, kind_of
from .context import Context

log = logging.getLogger(__name__)
MARKER = "licences.json"


def introduce(context: Context, digest: str) -> None:
    """Keep the model's origin and licence in the context's notes, and say what the user should know of it.

    The licence is logged once per checkpoint and outputs folder; `mini`, which is our own, has nothing to say.

    Parameters
    ----------
    digest : of the checkpoint, as of models.checkpoints.model_digest
    """
    model, notes = context.config.model, context.notes
    require_kind(model)
    if model.path in EMBEDDED or "licence" in notes:
        return
    notes["licence"] = {**provenance(model.path, model.revision), "digest": digest}
    folder = model_folder(model.path, model.revision)
    if not has_head(folder):
        log.info("%s has no expression head: latent objectives only.", model.path)
    if _first_time(context.store.root, digest, model.path):
        log.info("licence of %s: %s", model.path, notes["licence"]["licence"])


def require_kind(model: ModelConfig) -> None:
    """Refuse a folder of another kind of model than was asked for.

    Raises
    ------
    SteerError
        What it is.
    """
    if model.kind is None or not (folder := model_folder(model.path, model.revision)).is_dir():
        return  # its reader says that there is none
    if (found := kind_of(folder)) != model.kind:
        raise SteerError(
            f"{model.path} looks like {found}'s; a folder of {model.kind} has {FOLDERS[model.kind]}. "
            "model=local takes a folder for what it is."
        )


def require_head(config: Config, objectives: Sequence[str], repair: str) -> None:
    """Refuse objectives on predicted expression for a checkpoint of the encoder alone.

    Parameters
    ----------
    repair : the override that leaves only latent objectives
    """
    require_kind(config.model)
    needing = [name for name in objectives if name in ("expression", "mixed", "program")]
    if needing and not has_head(model_folder(config.model.path, config.model.revision)):
        raise SteerError(f"{config.model.path} has no expression head, so objective '{needing[0]}' is impossible; add {repair}")


def check_tokens(config: Config) -> None:
    """Refuse what needs one token of every gene in every cell, for a model whose cells have tokens of their own."""
    model, objective = config.model, config.objective
    if _is_fixed(model):
        return
    what = f"{model.path} reads the genes that a cell expresses, so that"
    if model.readout != "reconstruction":
        raise SteerError(f"{what} model.readout={model.readout} is not to be had: take model.readout=reconstruction.")
    if config.sae.centre != "none":
        raise SteerError(f"{what} sae.centre={config.sae.centre} has no place: take sae.centre=none.")
    if not isinstance(objective.tokens, str) and objective.mode != "multiply":
        raise SteerError(f"{what} objective.mode={objective.mode} at a list of genes differs from cell to cell: take multiply.")


def require_fixed(config: Config, command: str) -> None:
    """Refuse a command that reads every gene at its own place, for a model whose cells have tokens of their own."""
    if not _is_fixed(config.model):
        raise SteerError(
            f"{command} compares genes at their tokens in the same cells, and a cell of {config.model.path} has tokens of the "
            "genes that it expresses alone; take model=mini, or a checkpoint of AIDO.Cell."
        )


def _is_fixed(model: ModelConfig) -> bool:
    return released_arch(model.path) is not None or read_config(model_folder(model.path, model.revision)).fixed


def _first_time(root: Path, digest: str, name: str) -> bool:
    """Whether a checkpoint is new to an outputs folder; it is not from now on."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / MARKER
    with FileLock(f"{file}.lock"):  # jobs of one sweep
        shown = json.loads(file.read_text()) if file.is_file() else {}
        if digest in shown:
            return False
        beside = file.with_suffix(".tmp")
        beside.write_text(json.dumps(shown | {digest: name}, indent=1))
        beside.replace(file)
    return True
