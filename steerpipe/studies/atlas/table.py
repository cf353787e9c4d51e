"""The matrix of verdicts, and what the atlas says."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...evaluate.atlas import RULE, normalised, verdict
from .compute import POOLED, POOLED_ALL, Features

LEVEL = 0.05
ABOVE = 0.1
"""By which two seeds must be more alike than random dictionaries for their likeness to be a unit."""
SEPARATES = 0.95
"""AUROC of depth from which depth alone is said to tell a tissue."""


def pairs(scores: pd.DataFrame, alike: pd.DataFrame, tissues: list[str]) -> pd.DataFrame:
    """Return a row a dictionary and tissue: of, on, fvu, own (fvu), excess, noise, cosine, codes (normalised), verdict.

    `excess` is the mean over seeds; `noise` the SD over seeds of the tissue's own unexplained variance, over its mean.
    """
    similar = {name: normalised(_square(alike, name, tissues)) for name in ("cosine", "codes")}
    mean = scores.groupby(["of", "on"])["fvu"].mean()
    rows = []
    for of in [*tissues, *(name for name in (POOLED, POOLED_ALL) if name in set(scores["of"]))]:
        for j, on in enumerate(tissues):
            own = scores.loc[(scores["of"] == on) & (scores["on"] == on), "fvu"]
            excess, noise = float(mean[of, on] / own.mean() - 1), float(own.std(ddof=1) / own.mean())
            row = {"of": of, "on": on, "fvu": float(mean[of, on]), "own": float(own.mean()), "excess": excess, "noise": noise}
            if of in tissues:
                both = {name: float(values[tissues.index(of), j]) for name, values in similar.items()}
                row |= both
                row["verdict"] = "its own" if of == on else verdict(excess, noise, min(both.values()))
            rows.append(row)
    return pd.DataFrame(rows)


def _square(alike: pd.DataFrame, name: str, tissues: list[str]) -> np.ndarray:
    found = np.zeros((len(tissues), len(tissues)))
    for row in alike.itertuples():
        i, j = tissues.index(row.a), tissues.index(row.b)
        found[i, j] = found[j, i] = getattr(row, name)
    return found


def lines(
    table: pd.DataFrame, alike: pd.DataFrame, chance: dict[str, float], of: str, features: Features, carried: pd.DataFrame
) -> list[str]:
    """Return what is said; `of`: the dictionary that the features are of."""
    others = table[table["verdict"].notna() & (table["verdict"] != "its own")]
    counts = others["verdict"].value_counts()
    said = [f"{len(others)} pairs of tissues: " + ", ".join(f"{n} {name}" for name, n in counts.items()) + f". {RULE}"]
    own = alike[alike["a"] == alike["b"]]
    said.append(
        f"Two seeds of one tissue: cosine {own['cosine'].mean():.2f}, codes {own['codes'].mean():.2f}; random dictionaries "
        f"{chance['cosine']:.2f}, {chance['codes']:.2f}. What is alike is said in units of the first."
    )
    weak = [name for name in ("cosine", "codes") if own[name].mean() - chance[name] < ABOVE]
    if weak:
        said.append(f"By {' and '.join(weak)} two seeds are hardly more alike than random ones: to be as alike says little.")
    for name in (POOLED, POOLED_ALL):
        mine = table[table["of"] == name]
        if len(mine):
            worst = mine.loc[mine["excess"].idxmax()]
            low, high = mine["excess"].median(), worst["excess"]
            said.append(f"{name}: excess unexplained variance {low:+.0%} (median), at most {high:+.0%} on {worst['on']}.")
    by = features.shares.set_index("cells")
    null = by.loc["tissues dealt anew"]
    said.append(
        f"{of} features that fire: {by.loc['all', 'universal']:.0%} universal, {by.loc['all', 'shared']:.0%} shared, "
        f"{by.loc['all', 'specific']:.0%} specific; with tissues dealt anew {null['specific']:.0%} specific "
        f"({null['lo']:.0%} to {null['hi']:.0%})."
    )
    said += [_condition(by, str(cells)) for cells in by.index[2:] if not str(cells).endswith("dealt anew")]
    deep = {tissue: auroc for tissue, auroc in features.depth.items() if auroc >= SEPARATES}
    if deep:
        told = ", ".join(f"{tissue} (AUROC {auroc:.2f})" for tissue, auroc in deep.items())
        said.append(f"Depth alone tells {told}: what is specific to it may be its depth.")
    if len(carried):
        layer = carried[carried["space"] == "layer"]
        beyond = layer[layer["gap_p"] <= LEVEL]
        foreign, own_ones = (layer[layer["of"] != layer["on"]], layer[layer["of"] == layer["on"]])
        n = int((beyond["of"] != beyond["on"]).sum())
        said.append(
            f"Recipes carried to another tissue: gap closed {foreign['gap'].median():.0%} (median; own "
            f"{own_ones['gap'].median():.0%}), beyond their null in {n} of {len(foreign)}."
        )
    return said


def _condition(by: pd.DataFrame, cells: str) -> str:
    row = by.loc[cells]
    if not row["n"]:
        return f"{cells}: too few cells are left in some tissue; nothing can be said there."
    null = by.loc[f"{cells}, dealt anew"]
    gone = row["specific"] <= null["hi"]
    return (
        f"{cells} ({row['n']:.0f} cells): {row['specific']:.0%} specific, dealt anew {null['lo']:.0%} to {null['hi']:.0%}: "
        f"{'the difference vanishes' if gone else 'the difference stays'}."
    )
