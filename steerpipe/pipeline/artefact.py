"""The one way to key, build and load what is kept: a step says what it reads, and that is its key."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..store import Artefact
from .context import Context

__all__ = ["Artefact", "built", "kept", "save_arrays", "shared"]


def built(
    context: Context,
    step: str,
    build: Callable[[Path], None],
    *,
    version: int,
    reads: dict[str, Any],
    parents: Sequence[Artefact] = (),
    inputs: Sequence[str] = (),
) -> Artefact:
    """Return a step's artefact, building it when it is missing; two calls that read the same share one.

    Parameters
    ----------
    build : fills the folder that it is given; one left by a killed run is given again, to resume in
    version : raised by hand when the meaning of what is built changes
    reads : every setting that the result depends on, by name; a setting that `build` reads and neither this nor a parent
        holds would let two results share a key (tests/pipeline/test_artefact.py watches the settings that builds read)
    parents, inputs : artefacts, and digests of files, that it reads
    """
    return context.store.get(step, version=version, config=reads, parents=parents, inputs=inputs, build=build)


def shared(context: Context, step: str, *, version: int, reads: dict[str, Any], inputs: Sequence[str] = ()) -> Path | None:
    """Return the folder in which several processes build pieces of one artefact; None when it is there already."""
    return context.store.shared(step, version=version, config=reads, inputs=inputs)


def kept(file: Path, compute: Callable[[], np.ndarray]) -> None:
    """Compute an array unless a killed run has left it; written beside, then renamed."""
    if not file.is_file():
        beside = file.with_suffix(".tmp.npy")
        np.save(beside, compute())
        beside.replace(file)


def save_arrays(file: Path, arrays: np.ndarray | Mapping[str, np.ndarray]) -> None:
    """Write an array as .npy, or several as .npz, beside and then renamed: several processes may build in one folder."""
    beside = file.with_suffix(f".{os.getpid()}.tmp{file.suffix}")
    if isinstance(arrays, np.ndarray):
        np.save(beside, arrays)
    else:
        np.savez(beside, **arrays)  # type: ignore[arg-type]
    beside.replace(file)
