"""What is read of a transfer: scores and markers, a row a scored type and recipe."""

from __future__ import annotations

import pandas as pd

from ...evaluate.inference import answer
from ...evaluate.tables import cell


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read: a row a scored type and recipe."""
    some = scores[scores["relation"] != "single type"]
    columns = {
        "E-distance, layer": ("layer", "edistance"), "gap, layer": ("layer", "gap"), "C2ST, layer": ("layer", "c2st"),
        "E-distance, expression": ("expression", "edistance"), "gap, expression": ("expression", "gap"),
        "C2ST, expression": ("expression", "c2st"),
    }  # fmt: skip
    rows = []
    for (score_on, objective, relation), group in some.groupby(["score_on", "objective", "relation"], sort=False):
        table = group.set_index(["space", "score"])
        found = {title: cell(key[1], table.loc[key, "value"], table.loc[key, "p"]) for title, key in columns.items()}
        rows.append({"score_on": score_on, "objective": objective, "recipe": relation, **found})
    return pd.DataFrame(rows)


def marker_table(markers: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each marker's gap that is closed, a row a scored type and recipe, a column a gene."""
    some = markers[markers["relation"].isin(["own", "transferred"])]
    wide = some.pivot_table(index=["score_on", "objective", "relation"], columns="gene", values="gap_fraction", sort=False)
    return wide.map(lambda x: f"{x:+.0%}").reset_index()


def said(scores: pd.DataFrame) -> list[str]:
    """Return in words how far recipes of a type's own cells go, how far those of the other types, and against what."""
    lines = []
    for words, relation in {"Fitted on the type itself": "own", "Fitted on the other types": "transferred"}.items():
        lines += [f"{words}: {far[0].lower()}{far[1:]}" for far in answer(scores[scores["relation"] == relation])[:1]]
    return lines + answer(scores[scores["relation"].isin(["own", "transferred"])])[1:]
