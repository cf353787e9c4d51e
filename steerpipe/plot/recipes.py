"""Figures of recipes: what is in them, and where they take cells."""

from __future__ import annotations

from math import ceil

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from .style import colour, note, styled, subplots

MOST = 25
"""Features that a waterfall shows, strongest first."""
ABREAST = 2
"""Recipes that a waterfall shows side by side: more are no longer read on a laptop."""


@styled
def waterfall(features: pd.DataFrame, caption: str) -> Figure:
    """Draw theta of the recruited features of each objective, strongest first.

    Parameters
    ----------
    features : columns objective, feature, theta, label (empty: the number stands alone)
    """
    objectives = list(dict.fromkeys(features["objective"]))
    n = min(MOST, int(features["objective"].value_counts().max())) if len(features) else 1
    labelled = bool((features["label"] != "").any())
    columns = min(ABREAST, max(1, len(objectives)))
    rows = max(1, ceil(len(objectives) / columns))
    size = {"width": (6.4 if labelled else 4.2) * columns, "height": (1.4 + 0.19 * max(n, 6)) * rows}
    figure, axes = subplots(rows, columns, **size)
    for ax in axes[len(objectives) :]:
        ax.set_visible(False)
    for ax, objective in zip(axes, objectives, strict=False):
        every = features[features["objective"] == objective]
        order = every["theta"].abs().sort_values(ascending=False, kind="stable").index[:MOST]
        some = every.loc[order]
        at = np.arange(len(some))
        faces = [to_rgba(colour(objective), 1.0 if value > 0 else 0.35) for value in some["theta"]]
        ax.barh(at, some["theta"], color=faces, edgecolor=colour(objective), height=0.75)
        names = [f"{row.feature} {_short(str(row.label))}".rstrip() for row in some.itertuples()]
        ax.set_yticks(at, names, fontsize=7)
        ax.set_ylim(max(n, 6) - 0.4, -0.6)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_xlabel("theta = alpha - 1")
        shown = "" if len(some) == len(every) else f", {len(some)} strongest"
        ax.set_title(f"{objective} objective: {len(every)} features{shown}", loc="left")
    for ax in axes[::columns]:
        ax.set_ylabel("SAE feature")
    note(figure, caption)
    return figure


@styled
def umap(points: pd.DataFrame, caption: str) -> Figure:
    """Draw the contrast's cells, and where the held-out source cells are before and after each recipe.

    Parameters
    ----------
    points : columns group (source, target, steered), recipe, cell, held_out, x, y
    """
    recipes = list(dict.fromkeys(points.loc[points["group"] == "steered", "recipe"]))
    figure, axes = subplots(1, 1 + len(recipes), width=3.3 * (1 + len(recipes)), height=3.6, sharex=True, sharey=True)
    source, target = (points[points["group"] == name] for name in ("source", "target"))
    before = source[source["held_out"]].set_index("cell")
    for ax, recipe in zip(axes, ["", *recipes], strict=True):
        ax.scatter(target["x"], target["y"], s=9, color="#cc79a7", alpha=0.55, linewidths=0, label="target cells")
        ax.scatter(source["x"], source["y"], s=9, color="#999999", alpha=0.55, linewidths=0, label="source cells")
        if not recipe:
            ax.scatter(before["x"], before["y"], s=16, facecolors="none", edgecolors="black", linewidths=0.7, label="held out")
            ax.set_title("before", loc="left")
        else:
            after = points[(points["group"] == "steered") & (points["recipe"] == recipe)].set_index("cell")
            start = before.loc[after.index]
            for a, b in zip(start[["x", "y"]].to_numpy(), after[["x", "y"]].to_numpy(), strict=True):
                ax.plot([a[0], b[0]], [a[1], b[1]], color="black", lw=0.35, alpha=0.4, zorder=1)
            ax.scatter(after["x"], after["y"], s=16, color=colour(recipe), linewidths=0, label="held out, steered")
            ax.set_title(f"{recipe} objective", loc="left")
        ax.set(xticks=[], yticks=[], xlabel="UMAP 1")
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, handletextpad=0.1, columnspacing=0.8
        )
    axes[0].set_ylabel("UMAP 2")
    note(figure, f"{caption} · final embeddings; steered cells are projected onto the map, not refitted")
    return figure


def _short(label: str, n: int = 48) -> str:
    return label if len(label) <= n else label[: n - 1].rstrip() + "…"
