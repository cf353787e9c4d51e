"""The figure of the front."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...evaluate.inference import LEVEL
from ...plot.style import COLOURS, GREY, note, styled, subplots


@styled
def pareto(front: pd.DataFrame, caption: str) -> Figure:
    """Draw how much of the gap the mixed objective closes in the layer and in predicted expression, weight by weight.

    Parameters
    ----------
    front : columns recipe, weight (NaN for controls), n (features), layer_gap, expression_gap, each with its p (`_p`); held-out
        cells. A point that is within its null in both is hollow
    """
    figure, (ax,) = subplots(1, 1, width=5.6, height=4.4)
    curve = front[front["weight"].notna()].sort_values("weight")
    x, y = curve["layer_gap"], curve["expression_gap"]
    ax.plot(x, y, "-", color="#555555", lw=1, zorder=1)
    dots = ax.scatter(x, y, c=curve["weight"], cmap="viridis", s=42, zorder=2, edgecolors="black", linewidths=0.5)
    within = curve[(curve["layer_gap_p"] > LEVEL) & (curve["expression_gap_p"] > LEVEL)]
    ax.scatter(within["layer_gap"], within["expression_gap"], color="white", edgecolors=GREY, s=42, zorder=3)
    left, last = False, (np.inf, np.inf)
    for a, b, row in zip(x, y, curve.itertuples(), strict=True):
        near = abs(a - last[0]) < 0.15 * np.ptp(x) and abs(b - last[1]) < 0.05 * np.ptp(y)
        left = bool(near) and not left  # else neighbours write over each other
        place: dict[str, Any] = {"xytext": (-6 if left else 6, 5), "ha": "right" if left else "left"}
        ax.annotate(f"{row.weight:g}: {int(row.n)}", (a, b), **place, textcoords="offset points", fontsize=7)
        last = (a, b)
    marks = dict(zip(dict.fromkeys(front.loc[front["weight"].isna(), "recipe"]), "Xs^vDP", strict=False))
    for name, mark in marks.items():
        some = front[front["recipe"] == name]
        ax.scatter(some["layer_gap"], some["expression_gap"], marker=mark, color=COLOURS["control"], s=36, label=name)
    for value, style in ((0, "-"), (1, ":")):
        ax.axhline(value, color="black", lw=0.6, ls=style)
        ax.axvline(value, color="black", lw=0.6, ls=style)
    ax.set(xlabel="gap closed at the steered layer", ylabel="gap closed in predicted expression (DE genes)")
    ax.set_title("held-out cells; 1 is arrival; weight: features; hollow: within the null", loc="left")
    ax.margins(0.15)
    ax.legend(loc="best")
    figure.colorbar(dots, ax=ax, label="weight of the latent term (0: expression alone)")
    note(figure, caption)
    return figure
