"""Names of features, where `steer annotate` has given any to the dictionary in use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ..store import Store
from .artefact import Artefact

STAGE = "annotate"
DICTIONARY = "train-sae"


def feature_labels(store: Store, recipe: Artefact) -> dict[int, str]:
    """Return {feature: label} from the newest annotation of a fit's dictionary in the store; empty where there is none."""
    parents = all_parents(store)
    return _labels(store, {key for key in parents.get(recipe.key, []) if (store.root / DICTIONARY / key).is_dir()}, parents)


def dictionary_labels(store: Store, trained: Artefact) -> dict[int, str]:
    """Return {feature: label} from the newest annotation of a dictionary in the store; empty where there is none."""
    return _labels(store, {trained.key}, all_parents(store))


def _labels(store: Store, mine: set[str], parents: dict[str, list[str]]) -> dict[int, str]:
    tables = [
        folder / "features.parquet" for folder in (store.root / STAGE).glob("*") if mine & _ancestors(folder.name, parents)
    ]
    tables = [table for table in tables if table.is_file()]
    if not mine or not tables:
        return {}
    frame = pd.read_parquet(max(tables, key=lambda path: path.stat().st_mtime), columns=["feature", "label"])
    named = frame[frame["label"].notna() & (frame["label"] != "")]
    return dict(zip(named["feature"].astype(int), named["label"].astype(str), strict=True))


def labelled(theta: np.ndarray, labels: dict[int, str]) -> pd.DataFrame:
    """Return the recruited features of theta (F,); columns feature, theta, label."""
    on = np.flatnonzero(theta)
    return pd.DataFrame({"feature": on, "theta": theta[on], "label": [labels.get(int(f), "") for f in on]})


def all_parents(store: Store) -> dict[str, list[str]]:
    """Return {key: keys of its parents} of every artefact in a store."""
    return {record.parent.name: _parents(record) for record in store.root.glob("*/*/artefact.json")}


def _parents(record: Path) -> list[str]:
    found: list[str] = json.loads(record.read_text())["parents"]
    return found


def _ancestors(key: str, parents: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    todo = [key]
    while todo:
        new = [k for k in parents.get(todo.pop(), []) if k not in found]
        found.update(new)
        todo += new
    return found
