"""Score rows as the tables that people read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .inference import LEVEL

GREY = "~"
"""Marks, in plain text, a score that its null reaches as well; pages, figures and terminals show it in grey."""
LEGEND = (
    f"{GREY}: within its null (p > {LEVEL:g}). E-distance -100% and gap 1 are arrival; orthogonal: what else moved; probe:\n"
    "mean p(target); C2ST .5: not told from real target cells; spread 1: kept, below: contracted. [2.5, 97.5 %] of the null."
)
SHOWN = {
    "edistance": "E-distance", "gap": "gap", "orthogonal": "orthogonal", "probe": "probe", "c2st": "C2ST", "spread": "spread",
}  # fmt: skip
PERCENT = ("edistance", "nearest", "change")


def cell(score: str, value: float, p: float = np.nan) -> str:
    """Return a score as text, marked where its p-value is above the level; empty for none."""
    if not np.isfinite(value):
        return ""
    text = f"{value:+.0%}" if score in PERCENT else f"{value:.0%}" if score == "closer" else f"{value:.2f}"
    return f"{GREY}{text}" if np.isfinite(p) and p > LEVEL else text


def headline(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the headline scores of held-out cells, a row a recipe and space: value, null and p of each score."""
    held = scores[(scores["split"] == "held") & scores["score"].isin([*SHOWN, "probe_share", "nearest"])]
    keys = ["recipe", "kind", "space"]
    columns = ["value", "lo", "hi", "floor", "null_mean", "null_lo", "null_hi", "p"]
    wide = held.pivot_table(index=keys, columns="score", values=columns, sort=False, dropna=False)
    wide = wide[wide.notna().any(axis=1)]
    order = [(c, s) for s in dict.fromkeys(held["score"]) for c in columns if (c, s) in wide.columns]
    wide = wide[order].dropna(axis=1, how="all")
    wide.columns = [s if c == "value" else f"{s}_{c}" for c, s in wide.columns]
    return wide.reset_index()


def wide(rows: pd.DataFrame) -> dict[str, float]:
    """Return the scores of one recipe as `<space>_<score>`, each with its p as `<space>_<score>_p`.

    `de_change` is the mean of the median changes on the DE genes that rise and on those that fall.
    """
    found: dict[str, float] = {}
    for row in rows.itertuples():
        found |= {f"{row.space}_{row.score}": float(row.value), f"{row.space}_{row.score}_p": float(row.p)}
    if {"de_up_change", "de_down_change"} <= found.keys():
        found["de_change"] = (found["de_up_change"] + found["de_down_change"]) / 2
    return found


def printed(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Return the columns {`<space>_<score>`: title} of a table of `wide` rows as text, beside its other columns' first ones."""
    out = pd.DataFrame(index=table.index)
    for name, title in columns.items():
        if name in table:
            p = table.get(f"{name}_p", pd.Series(np.nan, table.index))
            out[title] = [cell(name.split("_")[-1], v, q) for v, q in zip(table[name], p, strict=True)]
    return out


def summary(scores: pd.DataFrame, split: str = "held") -> pd.DataFrame:
    """Return the table people read: every recipe in every space, its null below it, then the controls.

    Controls are shown at the steered layer and in predicted expression.
    """
    some = scores[(scores["split"] == split) & scores["score"].isin(list(SHOWN))]
    rows = []
    for kind in ("recipe", "refit", "control"):
        for (recipe, space), group in some[some["kind"] == kind].groupby(["recipe", "space"], sort=False):
            if kind == "control" and space == "final":
                continue
            table = group.set_index("score")
            row = {"recipe": recipe, "space": space}
            texts = {s: cell(s, table.loc[s, "value"], table.loc[s, "p"]) for s in SHOWN if s in table.index}
            rows.append(row | {SHOWN[s]: text for s, text in texts.items()})
            if table["n_null"].max() > 0:
                null = {SHOWN[s]: _interval(s, table.loc[s]) for s in SHOWN if s in table.index}
                rows.append({"recipe": "  its null", "space": space, **null})
    return pd.DataFrame(rows).fillna("")


def _interval(score: str, row: pd.Series) -> str:
    """The null's 95 % range; its mean stands before it where the score is one of position."""
    if not np.isfinite(row["null_mean"]):
        return ""
    lo, hi = (cell(score, row[name]) for name in ("null_lo", "null_hi"))
    return f"[{lo}, {hi}]"
