"""Gap closed against the number of features, a line a target; and the features for half of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plot.style import COLOURS, GREY, note, styled, subplots
from .table import VERDICTS

HUES = dict(zip(VERDICTS, ("#d55e00", "#e69f00", "#009e73", "#56b4e9", "#0072b2", "#bdbdbd"), strict=True))
MOST_NAMED = 45


@styled
def granularity(curves: pd.DataFrame, targets: pd.DataFrame, caption: str) -> Figure:
    """Draw the curves with modules as points and off-target movement on a second axis, and n50 of every target.

    Parameters
    ----------
    curves : columns target, n, share, off_target, random_lo, random_hi
    targets : one row a target, see table.target_row
    """
    rows = min(len(targets), MOST_NAMED)
    figure, (left, right) = subplots(1, 2, width=12, height=max(4.6, 1.2 + 0.155 * rows), width_ratios=[3, 2])
    there = targets[targets["verdict"] != "nothing"]
    some = curves[curves["target"].isin(there["target"])]
    for row in there.itertuples():
        one = some[some["target"] == row.target]
        left.plot(one["n"], one["share"], color=HUES[row.verdict], lw=1.1, alpha=0.75, zorder=2)
    if len(some):
        over = some.groupby("n")
        band = over[["random_lo", "random_hi"]].median()
        left.fill_between(band.index, band["random_lo"], band["random_hi"], color="#dddddd", zorder=0, label="random features")
        side = left.twinx()
        many = over.size() >= len(there) / 2  # a mean over few targets is of others than the mean beside it
        side.plot(over["off_target"].mean()[many], color="black", ls="--", lw=1.2)
        side.set_ylabel("mean movement towards other labels (dashed)")
        side.set_ylim(0, max(1e-9, 2.5 * float(over["off_target"].mean().max())))
    for name, mark in (("component", "s"), ("module", "^")):
        at = there[there[f"{name}_n"] > 0]
        left.scatter(at[f"{name}_n"], at[f"{name}_share"], marker=mark, s=22, facecolors="none",
                     edgecolors=[HUES[v] for v in at["verdict"]], lw=0.9, zorder=3)  # fmt: skip
        left.scatter([], [], marker=mark, s=22, facecolors="none", edgecolors="black", label=f"best {name}, one theta")
    for name in dict.fromkeys(there["verdict"]):
        left.plot([], [], color=HUES[name], label=name)
    left.axhline(1, color="black", lw=0.7, ls=":")
    left.axhline(0.5, color="black", lw=0.5, ls=":")
    left.set_xscale("log", base=2)
    left.set_xlim(0.8, 1.3 * max(2, curves["n"].max(), *there["component_n"], *there["module_n"]))
    left.set(xlabel="features", ylabel="gap closed, share of the dense vector's")
    left.set_ylim(min(-0.05, float(some["share"].min()) if len(some) else 0.0), 1.5)
    left.xaxis.set_major_formatter("{x:.0f}")
    left.legend(loc="upper left", ncols=3)
    left.set_title("a  held-out cells", loc="left")
    _halves(right, targets.head(MOST_NAMED))
    note(figure, caption)
    return figure


def _halves(ax: Axes, targets: pd.DataFrame) -> None:
    at = np.arange(len(targets))[::-1]
    largest = max(2.0, float(targets[["n50", "n50_random"]].replace(np.inf, np.nan).max().max()))
    for y, row in zip(at, targets.itertuples(), strict=True):
        if row.verdict == "nothing":
            ax.text(1, y, "within its null", va="center", fontsize=6.5, color=GREY)
            continue
        ax.plot(row.n50_random, y, "|", color=GREY, ms=7)
        if np.isfinite(row.n50):
            ax.plot(row.n50, y, "o", color=HUES[row.verdict], ms=5)
        else:
            ax.text(largest, y, "never", va="center", ha="right", fontsize=6.5, color=COLOURS["expression"])
    ax.set_xscale("log", base=2)
    ax.set_xlim(0.85, 1.2 * largest)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_yticks(at, targets["target"], fontsize=6.5)
    ax.set_ylim(-0.7, len(targets) - 0.3)
    ax.set_xlabel("features for half of the gap; |: at random")
    ax.set_title("b  n50", loc="left")
