"""Names of features, where `steer annotate` has given any to the dictionary in use."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from ..store import Artefact, Store

STAGE = "annotate"


def feature_labels(store: Store, dictionary: str) -> dict[int, str]:
    """Return {feature: label} from the newest annotation of a dictionary in the store; empty where there is none.

    Parameters
    ----------
    dictionary : key of the dictionary's artefact
    """
    found = []
    for record in (store.root / STAGE).glob("*/artefact.json"):
        table = record.with_name("features.parquet")
        if dictionary in json.loads(record.read_text())["parents"] and table.is_file():
            found.append(table)
    if not found:
        return {}
    frame = pd.read_parquet(max(found, key=lambda path: path.stat().st_mtime))
    if not {"feature", "label"} <= set(frame):
        return {}
    named = frame[frame["label"].notna() & (frame["label"] != "")]
    return dict(zip(named["feature"].astype(int), named["label"].astype(str), strict=True))


def dictionary_key(recipe: Artefact) -> str:
    """Return the key of the dictionary that a fit stands on."""
    parents: list[str] = json.loads((recipe.path / "artefact.json").read_text())["parents"]
    return parents[1]  # streams, then the dictionary: as fit gives them


def labelled(theta: np.ndarray, labels: dict[int, str]) -> pd.DataFrame:
    """Return the recruited features of theta (F,); columns feature, theta, label."""
    on = np.flatnonzero(theta)
    return pd.DataFrame({"feature": on, "theta": theta[on], "label": [labels.get(int(f), "") for f in on]})
