"""The line below a figure that says what it was made from: model, data, contrast, layer, dictionary."""

from __future__ import annotations

from pathlib import Path

from ..config import EMBEDDED, Config
from ..data.contrast import side_names


def model_phrase(config: Config) -> str:
    """Return the model and the data as captions name them."""
    path = config.model.path
    own = path in EMBEDDED or Path(path, "artefact.json").exists()  # embedded, or of `steer pretrain`
    name = "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path
    small = " (our own small network, not AIDO.Cell)" if own else ""
    return f"model {name}{small} · {config.dataset.path or config.dataset.name}"


def sae_phrase(config: Config) -> str:
    """Return the SAE as captions name it."""
    path = config.sae.path
    centred = ", gene-centred" if config.sae.centre == "gene" else ""
    return f"SAE x{config.sae.expansion} k{config.sae.k}{centred}" if path is None else f"SAE of {Path(path).name}"


def caption(config: Config, tokens: str | None) -> str:
    """Return one line on what a figure shows: model, data, contrast, and the SAE with its tokens (None: no one SAE)."""
    contrast = config.contrast
    source, target = side_names(contrast.source, contrast.target, halves=contrast.halves)
    return _caption(config, f"{source} -> {target} · layer {config.layer.index}", tokens)


def dictionary_caption(config: Config, tokens: str | None) -> str:
    """Return the line below a figure of a dictionary, which knows no contrast."""
    return _caption(config, f"layer {config.layer.index}", tokens)


def annotation_caption(config: Config, n_sets: int, n_background: int) -> str:
    """Return the line below a figure of an annotation: how many sets were tested, on how many genes."""
    sets = f"{config.annotate.library}, {n_sets:,} sets, {n_background:,} background genes"
    return f"{model_phrase(config)} · layer {config.layer.index} · {sae_phrase(config)} · {sets}"


def _caption(config: Config, where: str, tokens: str | None) -> str:
    text = f"{model_phrase(config)} · {where}"
    return text if tokens is None else f"{text} · {sae_phrase(config)} on {tokens} tokens"
