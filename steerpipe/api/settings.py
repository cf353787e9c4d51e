"""From a call's keywords to the pipeline: the settings that commands compose, the AnnData as a dataset, the store."""

from __future__ import annotations

import atexit
import functools
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

import numpy as np
from anndata import AnnData

from ..config import Config, DatasetConfig, LayerConfig, ModelConfig, SaeConfig
from ..data.datasets import lend
from ..data.split import test_cells
from ..errors import SteerError, unknown
from ..pipeline.pipeline import Pipeline
from ..store import Store

P = ParamSpec("P")
T = TypeVar("T")
TEST = "steer_test"
"""obs column of the test cells: nothing is trained or fitted on them, and every score is of them."""
HUB = "genbio-ai/AIDO.Cell-"
COMMIT = "71b1d8586687762733848c6f21e1bcc12db33f18"
MODELS = {
    one.path: one
    for one in (
        ModelConfig(path="mini", steering_layer=4, batch_size=4),
        ModelConfig(path=f"{HUB}3M", revision="main", steering_layer=4, batch_size=1, contrast_cells=640),
        ModelConfig(path=f"{HUB}10M", revision="main", steering_layer=5, batch_size=1, contrast_cells=320),
        ModelConfig(path=f"{HUB}100M", revision=COMMIT, steering_layer=12, batch_size=1, contrast_cells=160),
    )
}
"""The settings that conf/model/ gives the models it names (a test compares the two), but for those that studies alone read."""
LOCAL = ModelConfig(path="", steering_layer=12, batch_size=1)
"""Those of any other checkpoint, as in conf/model/local.yaml."""
SIZES = {"mini": {"expansion": 2, "k": 8}}
"""SAE sizes that a model takes in place of the default ones, likewise."""
WORDS = {
    "dataset.layer": "counts",
    "dataset.label": "label",
    "dataset.batch": "batch",
    "dataset.test": f"obs['{TEST}']",
    "dataset.test_share": "hold_out(share=...)",
    "contrast.column": "label",
    "layer.index": "layer",
    "lambda.value": "lam",
    "lambda.mode": "lam_mode",
    "objective.name": "objective",
    "sae.path": "sae",
}
"""What a setting of the commands is called in a call; others by their own name, without the group."""
GROUPS = "annotate|contrast|dataset|evaluate|extract|lambda|layer|model|objective|sae"


def in_words(message: str) -> str:
    """Return an error's line with the names of a call's keywords in place of those of the commands' settings."""
    message = re.sub(r"dataset\.layer=(?!null)(\w+)", r"counts='\1'", message.replace("dataset.layer=null", "counts=None"))
    return re.sub(rf"\b(?:{GROUPS})\.[a-z]\w*", lambda hit: WORDS.get(hit[0], hit[0].split(".")[1]), message)


def told(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of the door say what is wrong in its own words."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except SteerError as error:
            raise SteerError(in_words(str(error))) from error.__cause__

    return call


def settings_of(path: str, revision: str | None, *, layer: int | None = None, **groups: Any) -> Config:
    """Return the settings that a command has with a model, but for the groups that are given.

    Parameters
    ----------
    layer : 0-based, -1 the last block; None is the model's steering layer
    groups : dataclasses of steerpipe.config by the names of Config's fields, and Config's plain fields
    """
    model = MODELS.get(path) or replace(LOCAL, path=path)
    model = model if revision is None else replace(model, revision=revision)
    sizes: dict[str, Any] = SIZES.get(path, {})
    groups.setdefault("sae", SaeConfig(**sizes))
    groups |= {"model": model, "layer": LayerConfig(model.steering_layer if layer is None else layer)}
    kinds: dict[str, Any] = {name: kind for name, kind in get_type_hints(Config).items() if is_dataclass(kind)}
    rest = {name: kind() for name, kind in kinds.items() if name not in groups}
    return Config(**rest, **groups)


def group_of(kind: type[T], given: Mapping[str, Any], **named: Any) -> T:
    """Return a group of settings from a call's further keywords; `named` are those that the call has of its own.

    Raises
    ------
    SteerError
        The group has no setting of that name.
    """
    known = [one.name for one in fields(kind) if one.name not in named]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise unknown("keyword", name, known)
    return kind(**named, **given)


@contextmanager
def opened(
    adata: AnnData,
    path: str,
    revision: str | None,
    *,
    layer: int | None,
    counts: str | None,
    store: str | Path | None,
    label: str | None = None,
    batch: str | None = None,
    tested: bool = False,
    **groups: Any,
) -> Iterator[Pipeline]:
    """Open the pipeline of an AnnData on a model.

    Parameters
    ----------
    counts : where the raw counts are: a layer of the AnnData, or raw; None is X
    store : folder of what is kept; None: a temporary one, which goes with the process
    label, batch : columns of obs
    tested : whether the test cells are set apart (see TEST); else no cell is
    groups : see settings_of
    """
    offered = DatasetConfig(name="adata", layer=counts, label=label, batch=batch)
    with lend(require_adata(adata), offered, min_cells=20 if tested else 1) as name:
        split: dict[str, Any] = {"test": TEST} if tested else {"test_share": 0.0}
        dataset = DatasetConfig(name=name, label=label, batch=batch, **split)
        config = settings_of(path, revision, layer=layer, dataset=dataset, **groups)
        pipeline = Pipeline(config, Store(_memory() if store is None else Path(store).expanduser()))
        yield pipeline
        if store is not None:
            pipeline.store.pin()


def mark_test_cells(
    adata: AnnData, *, label: str | None = None, batch: str | None = None, share: float = 0.3, seed: int = 0
) -> None:
    """Write obs[TEST], bool: the test cells that the commands set apart with the same label and batch."""
    for column in (label, batch):
        if column is not None and column not in adata.obs:
            raise unknown("label column", column, adata.obs.columns)
    chosen = DatasetConfig(name="adata", label=label, batch=batch, test_share=share, split_seed=seed)
    adata.obs[TEST] = np.asarray(test_cells(adata.obs, chosen))


def set_apart(adata: AnnData, *, label: str | None, batch: str | None = None) -> None:
    """Mark test cells where that has not been done."""
    if TEST not in require_adata(adata).obs:
        mark_test_cells(adata, label=label, batch=batch)


def require_adata(adata: AnnData) -> AnnData:
    """Refuse anything but an AnnData."""
    if not isinstance(adata, AnnData):
        raise SteerError(f"adata is of type {type(adata).__name__}; an AnnData is needed, in memory or backed.")
    return adata


@functools.cache
def _memory() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="steerpipe-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
