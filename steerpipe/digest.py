"""Digests of input files and of arrays: their part of an artefact's key."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's files with their names, first 16 hex digits."""
    if path.is_dir():
        whole = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            whole.update(f"{file.relative_to(path).as_posix()} {file_digest(file)}\n".encode())
        return whole.hexdigest()[:16]
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def array_digest(*arrays: np.ndarray) -> str:
    """Return the sha256 of some arrays' bytes, first 16 hex digits; dtype and shape are not told."""
    return hashlib.sha256(b"|".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]
