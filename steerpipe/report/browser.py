"""The feature browser: one self-contained page of a dictionary's features, searched, sorted and opened without a network.

Size: a feature takes about 1 kB of text and one byte a cell; 10,000 features on 400 cells make about 15 MB.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from ..config import EMBEDDED
from .page import MINI

MAX_GENES = 40
"""Genes of a feature that the page holds, strongest first."""
MAX_TERMS = 5
COLUMNS = {
    "label": "label", "label_q": "q", "terms": "terms", "genes": "genes", "cell_types": "cell types", "density": "density",
    "pr": "PR", "stability": "seeds", "expressed": "expressed", "module": "module", "direct_terms": "direct terms",
}  # fmt: skip
"""The columns of a feature table that the page shows or searches, and their titles; each may be missing."""
DIGITS = 4


@dataclass
class Catalogue:
    """What is known of a dictionary's features; every part but `features` may be missing.

    Attributes
    ----------
    features : column feature, and any of COLUMNS; one row a feature
    model, what : the model's name, and one line on model, data and dictionary
    genes : columns feature, gene, weight (mean |z|), strongest first
    pairs : columns feature, term, q, overlap, set_genes
    types, profile : names of the T cell types, and float (T, F), mean |z| of each feature in them
    cells, codes : one row a cell (columns x, y, type), and float (n, F), the cell's mean |z| of each feature
    doses : {feature: title, and rows of kind, alpha, up, down}
    recipes : name, href ("" for none), theta {feature: value}
    """

    features: pd.DataFrame
    model: str = ""
    what: str = ""
    genes: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    types: Sequence[str] = ()
    profile: np.ndarray | None = None
    cells: pd.DataFrame | None = None
    codes: np.ndarray | None = None
    doses: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    recipes: Sequence[Mapping[str, Any]] = ()


def browser_page(catalogue: Catalogue) -> str:
    """Return the page of a dictionary as HTML."""
    from jinja2 import Environment, StrictUndefined

    folder = files("steerpipe.report")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = json.dumps(_data(catalogue), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return template.from_string(folder.joinpath("browser.html").read_text()).render(
        what=catalogue.what,
        n=len(catalogue.features),
        warning=MINI.format(catalogue.model) if catalogue.model in EMBEDDED else "",
        style=folder.joinpath("browser.css").read_text(),
        script=folder.joinpath("browser.js").read_text(),
        data=text,
    )


def quantised(values: np.ndarray) -> tuple[str, list[float | int | None]]:
    """Return a table (F, n) of values >= 0 as base64 of uint8, row by row, and each row's largest value, its 255."""
    top = values.max(axis=1, initial=0)
    scaled = np.rint(255 * values / np.where(top > 0, top, 1)[:, None]).astype(np.uint8)
    return base64.b64encode(scaled.tobytes()).decode(), [_round(x) for x in top]


def _data(catalogue: Catalogue) -> dict[str, Any]:
    """What the script reads; rows stand in the order of `features`."""
    frame = catalogue.features.reset_index(drop=True)
    numbers = frame["feature"].astype(int).tolist()
    row = {f: i for i, f in enumerate(numbers)}
    columns = {name: _column(frame[name]) for name in COLUMNS if name in frame}
    if "genes" in columns:
        columns["genes"] = [", ".join(text.split(", ")[:MAX_GENES]) for text in columns["genes"]]
    data: dict[str, Any] = {"feature": numbers, "columns": columns, "titles": COLUMNS}
    if catalogue.genes is not None:
        few = catalogue.genes.groupby("feature", sort=False).head(MAX_GENES)
        data["weights"] = _grouped(few, ["weight"], row)
    if catalogue.pairs is not None:
        few = catalogue.pairs.groupby("feature", sort=False).head(MAX_TERMS)
        names, codes = np.unique(few["term"].astype(str), return_inverse=True)
        data["term_names"] = names.tolist()
        data["pairs"] = _grouped(few.assign(term=codes), ["term", "q", "overlap", "set_genes"], row)
    if catalogue.profile is not None:
        text, top = quantised(catalogue.profile.T[numbers])
        data["profile"] = {"types": list(catalogue.types), "values": text, "top": top}
    if catalogue.cells is not None and catalogue.codes is not None:
        text, top = quantised(catalogue.codes.T[numbers])
        xy = catalogue.cells[["x", "y"]].to_numpy(float)
        span = np.ptp(xy, axis=0)
        unit = (xy - xy.min(0)) / np.where(span > 0, span, 1)
        data["cells"] = {"x": _column(unit[:, 0]), "y": _column(unit[:, 1]), "values": text, "top": top}
        data["cells"]["type"] = catalogue.cells["type"].astype(str).tolist()
    data["doses"] = {row[f]: dose for f, dose in catalogue.doses.items() if f in row}
    data["recipes"] = [
        {**recipe, "theta": {row[f]: _round(x) for f, x in recipe["theta"].items() if f in row}} for recipe in catalogue.recipes
    ]
    return data


def _column(values: Any) -> list[Any]:
    """Numbers to a few digits, None for those that are not finite; anything else as text."""
    series = pd.Series(values)
    if series.dtype.kind in "iuf":
        return [_round(x) for x in series]
    return ["" if pd.isna(x) else str(x) for x in series]


def _grouped(frame: pd.DataFrame, columns: list[str], row: Mapping[int, int]) -> list[list[Any]]:
    """One list a feature of its rows, each flat: the columns' values in turn."""
    out: list[list[Any]] = [[] for _ in row]
    parts = [_column(frame[name]) for name in columns]
    for f, *values in zip(frame["feature"], *parts, strict=True):
        if f in row:
            out[row[f]] += values
    return out


def _round(x: Any) -> float | int | None:
    if not np.isfinite(x):
        return None
    value = float(f"{x:.{DIGITS}g}")
    return int(value) if value.is_integer() else value
