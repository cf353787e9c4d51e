"""Figures of populations: the headline scores against their nulls, and where cells are before and after."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ..evaluate.inference import LEVEL
from ..evaluate.tables import SHOWN
from .style import COLOURS, GREY, colour, note, styled, subplots

SPACES = {"layer": "steered layer", "final": "final LayerNorm", "expression": "predicted expression"}


@styled
def headline(scores: pd.DataFrame, caption: str) -> Figure:
    """Draw every headline score of every recipe on held-out cells, beside its permutation null and the floor.

    Parameters
    ----------
    scores : columns recipe, kind, split, space, score, value, lo, hi, floor, null_lo, null_hi, p
    """
    some = scores[(scores["kind"] == "recipe") & (scores["split"] == "held") & scores["score"].isin(list(SHOWN))]
    spaces = [space for space in SPACES if space in set(some["space"])]
    recipes = list(dict.fromkeys(some["recipe"]))
    lines = [(space, recipe) for space in spaces for recipe in recipes]
    figure, axes = subplots(1, len(SHOWN), width=1.9 + 1.75 * len(SHOWN), height=1.5 + 0.34 * len(lines), sharey=True)
    for ax, (score, title) in zip(axes, SHOWN.items(), strict=True):
        table = some[some["score"] == score].set_index(["space", "recipe"])
        scale = 100 if score == "edistance" else 1
        for y, key in enumerate(lines):
            if key not in table.index:
                continue
            row = table.loc[key]
            at = {name: scale * float(row[name]) for name in ("value", "lo", "hi", "floor", "null_lo", "null_hi")}
            within = np.isfinite(row["p"]) and row["p"] > LEVEL
            face = GREY if within else colour(key[1])
            ax.plot([at["null_lo"], at["null_hi"]], [y, y], color=COLOURS["control"], lw=7, alpha=0.6, solid_capstyle="butt")
            ax.plot([at["lo"], at["hi"]], [y, y], color=face, lw=1.2)
            ax.plot(at["value"], y, "o", color=face, mfc="white" if within else face, ms=5)
            ax.plot(at["floor"], y, "|", color="black", ms=9, mew=1.2)
        ax.set_title(title, loc="left")
        ax.margins(x=0.12)
        if scale == 100:  # far beyond the start is as bad as very far
            ax.set_xscale("symlog", linthresh=100)
            ax.set_xticks([-100, 0, 100, 1000], ["-100", "0", "100", "1,000"])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel("%")
        for edge in range(len(recipes), len(lines), len(recipes)):
            ax.axhline(edge - 0.5, color="#dddddd", lw=0.8)
    axes[0].set_yticks(range(len(lines)), [f"{recipe} · {SPACES[space]}" for space, recipe in lines])
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    figure.suptitle(
        "held-out cells; thick grey: 95 % of the permutation null; bar: where arrival would be; hollow: within the null",
        fontsize=9,
    )
    note(figure, caption)
    return figure


@styled
def plane(points: pd.DataFrame, caption: str) -> Figure:
    """Draw held-out cells on the way from source to target mean, before and after each recipe.

    Parameters
    ----------
    points : columns space, group (source, target, steered), recipe, cell, x (along the way: 0 source mean, 1 target mean),
        y (first principal component across it)
    """
    spaces = [space for space in SPACES if space in set(points["space"])]
    recipes = list(dict.fromkeys(points.loc[points["group"] == "steered", "recipe"]))
    width = max(6.0, 3.4 * len(recipes))
    figure, axes = subplots(len(spaces), len(recipes), width=width, height=2.9 * len(spaces) + 0.5, sharey="row", sharex="row")
    for i, space in enumerate(spaces):
        for j, recipe in enumerate(recipes):
            ax = axes[i * len(recipes) + j]
            here = points[points["space"] == space]
            for group, face in (("target", "#cc79a7"), ("source", "#999999")):
                some = here[here["group"] == group]
                ax.scatter(some["x"], some["y"], s=11, color=face, alpha=0.6, linewidths=0, label=f"{group} cells")
            after = here[(here["group"] == "steered") & (here["recipe"] == recipe)].set_index("cell")
            before = here[here["group"] == "source"].set_index("cell").loc[after.index]
            for a, b in zip(before[["x", "y"]].to_numpy(), after[["x", "y"]].to_numpy(), strict=True):
                ax.plot([a[0], b[0]], [a[1], b[1]], color="black", lw=0.35, alpha=0.35, zorder=1)
            ax.scatter(after["x"], after["y"], s=13, color=colour(recipe), linewidths=0, label="steered")
            for x in (0, 1):
                ax.axvline(x, color="black", lw=0.6, ls=":")
            ax.set_title(f"{recipe}: {SPACES[space]}", loc="left")
            ax.set_xlabel("along the way (0 source mean, 1 target mean)")
            if j == 0:
                ax.set_ylabel("first component across it")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    note(figure, f"{caption} · held-out cells")
    return figure
