"""Choices of the group `dataset` by name, for studies that take several."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import SteerError, unknown
from ..folders import CONF
from .model import DatasetConfig

FILES = (".h5ad", ".h5ad.gz", ".zarr")
SHARED = ("test_share", "split_seed", "duplicates", "aliases", "max_cells")
"""Settings of the command's own dataset that hold for every one that is named."""


def named_dataset(name: str, base: DatasetConfig, setting: str) -> DatasetConfig:
    """Return the settings of a dataset: a choice of conf/dataset/, or a file with raw counts.

    A file has the labels, batches and the place of the counts that `base` names; a choice has its own. How many cells there are
    and which of them are test cells is for `base` to say, in both.

    Raises
    ------
    SteerError
        No such choice, and no such file.
    """
    if name.endswith(FILES):
        if not Path(name).exists():
            raise SteerError(f"{name} in {setting} does not exist (working folder: {Path.cwd()}).")
        return replace(base, name="h5ad", path=name, groups={}, perturbation=None, control=None, held=[])
    choices = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))
    if name not in choices:
        raise unknown(f"dataset in {setting}", name, choices)
    values: dict[str, Any] = yaml.safe_load((CONF / "dataset" / f"{name}.yaml").read_text())
    known = {one.name for one in fields(DatasetConfig)}
    own = {key: value for key, value in values.items() if key in known}
    return replace(DatasetConfig(**own), **{key: getattr(base, key) for key in SHARED if key not in own})
