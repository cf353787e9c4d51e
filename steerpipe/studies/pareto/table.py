"""The front, a row a weight, and what of it is printed."""

from __future__ import annotations

import pandas as pd

from ...evaluate.tables import printed, wide

SHOWN = {
    "layer_edistance": "E-distance, layer",
    "expression_edistance": "E-distance, expression",
    "layer_gap": "gap, layer",
    "expression_gap": "gap, expression",
    "layer_change": "closer by, layer",
    "de_change": "closer by, DE genes",
}
"""Columns of the front that are printed and kept as numbers, and their names."""


def front(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row a weight or control: recipe, weight, n, and evaluate.tables.wide of its scores."""
    rows = []
    for name, group in scores.groupby("recipe", sort=False):
        head = {"recipe": name, "weight": group["weight"].iloc[0], "n": int(group["features"].iloc[0])}
        rows.append(head | wide(group))
    return pd.DataFrame(rows)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the front as it is printed: scores as text, within their null marked."""
    return pd.concat([table[["recipe", "n"]], printed(table, SHOWN)], axis=1)
