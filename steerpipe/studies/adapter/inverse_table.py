"""What inverse adapters reach, in one table and in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from .inverse import EXACT, HEADLINE, SHUFFLED

LEVEL = 0.05
SPACES = ("layer", "final", "expression")


def with_q(rows: pd.DataFrame) -> pd.DataFrame:
    """Add gap_q: Benjamini and Hochberg over the pairs of each arm."""
    q = rows.groupby("arm", sort=False)["gap_p"].transform(lambda p: stats.false_discovery_control(p))
    return rows.assign(gap_q=q)


def summary(rows: pd.DataFrame, times: Mapping[str, float]) -> pd.DataFrame:
    """Return a row an arm: medians over the pairs, how many are beyond their null, and milliseconds a target."""
    found = []
    for name, some in rows.groupby("arm", sort=False):
        found.append(
            {
                "arm": name,
                "pairs": len(some),
                "excess": some["excess"].median(),
                "excess_max": some["excess"].max(),
                "overlap": some["overlap"].median(),
                "features": some["features"].median(),
                "gap": some["gap"].median(),
                "gap_null": some["gap_null"].median(),
                "edistance": some["edistance"].median(),
                "beyond": int((some["gap_q"] <= LEVEL).sum()),
                "ms": times.get(str(name), np.nan),
            }
        )
    return pd.DataFrame(found)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the headline scores of the pairs that ran through the model, medians: a row an arm and space."""
    found = []
    for name, some in rows.groupby("arm", sort=False):
        for space in SPACES:
            columns = {score: f"{space}_{score}" for score in HEADLINE if f"{space}_{score}" in some}
            there = some[list(columns.values())].dropna(how="all")
            if len(there):
                medians = {score: there[column].median() for score, column in columns.items()}
                found.append({"arm": name, "space": space, "pairs": len(there), **medians})
    return pd.DataFrame(found)


def lines(table: pd.DataFrame) -> list[str]:
    """Return what is said: gap to the optimum, held-out gap closed, null, and whether a network is worth its training."""
    by = table.set_index("arm")
    exact = by.loc[EXACT]
    said = [
        f"exact lasso: {exact['features']:.0f} features, {exact['gap']:.0%} of the gap closed in held-out cells (null "
        f"{exact['gap_null']:.0%}), beyond its null for {exact['beyond']:.0f} of {exact['pairs']:.0f} pairs (q <= {LEVEL:g})."
    ]
    networks = [name for name in by.index if name != EXACT and not name.startswith(SHUFFLED)]
    for name in networks:
        one = by.loc[name]
        said.append(
            f"{name}: objective {one['excess']:.2%} above the optimum ({one['excess_max']:.1%} at worst), support overlap "
            f"{one['overlap']:.2f}, {one['features']:.0f} features; {one['gap']:.0%} of the gap (null {one['gap_null']:.0%}), "
            f"beyond it for {one['beyond']:.0f} of {one['pairs']:.0f}."
        )
    for name in (name for name in by.index if name.startswith(SHUFFLED)):
        one = by.loc[name]
        said.append(
            f"{name.replace(SHUFFLED, 'targets shuffled,')}: {one['gap']:.0%} of the gap, beyond its null for "
            f"{one['beyond']:.0f} of {one['pairs']:.0f}."
        )
    times = ", ".join(f"{name} {by.loc[name, 'ms']:.1f}" for name in (EXACT, *networks))
    fastest = by.loc[networks, "ms"].min()
    verdict = "the exact lasso is as fast: take it" if exact["ms"] <= 2 * fastest else "a network is faster"
    said.append(f"Milliseconds a target, one at a time: {times}: {verdict}.")
    return said
