"""Figures of circuits."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...plot.style import COLOURS, GREY, note, styled, subplots

UP, DOWN = COLOURS["latent"], COLOURS["expression"]


@styled
def circuit(graph: nx.DiGraph, places: pd.DataFrame, levels: list[str], headers: Mapping[str, str], caption: str) -> Figure:
    """Draw a layered circuit: width is the effect's size among those of its two levels, colour its sign; grey is no edge.

    Parameters
    ----------
    graph : of graph.drawn; places : of graph.places
    levels : left to right; headers : what stands above a level, say its mediation share
    """
    most = max(1, int(places["x"].value_counts().max())) if len(places) else 1
    figure, (ax,) = subplots(1, 1, width=2.9 * len(levels), height=max(3.6, 0.62 * most + 1.6))
    largest: dict[float, float] = {}
    for a, _, data in graph.edges(data=True):
        x = places.at[a, "x"]
        largest[x] = max(largest.get(x, 0.0), data["size"])
    for a, b, data in sorted(graph.edges(data=True), key=lambda e: e[2]["size"]):
        start, stop = places.loc[a], places.loc[b]
        t = np.linspace(0, 1, 40)
        curve = start["y"] + (stop["y"] - start["y"]) * (3 * t**2 - 2 * t**3)
        share = data["size"] / largest[start["x"]]
        colour = GREY if not data["edge"] else UP if data["sign"] == "+" else DOWN
        style = "-" if data["sign"] == "+" else (0, (4, 2))
        alpha, z = (0.35, 1) if not data["edge"] else (0.4 + 0.4 * share, 2)
        ax.plot(start["x"] + t, curve, color=colour, ls=style, lw=0.5 + 3 * share, alpha=alpha, zorder=z)
    for node in places.itertuples():
        theta = node.theta
        face = "#444444" if theta is None or np.isnan(theta) else UP if theta > 0 else DOWN
        ax.scatter([node.x], [node.y], s=46, color=face, edgecolor="white", zorder=3)
        dose = "" if theta is None or np.isnan(theta) else f"  θ {theta:+.2f}"
        last = node.x == len(levels) - 1
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        if last:
            ax.annotate(node.name, (node.x, node.y), (7, 0), textcoords="offset points", va="center", fontsize=8, zorder=4)
            continue
        ax.annotate(
            f"{node.name}{dose}", (node.x, node.y), (0, 5), textcoords="offset points", ha="center", va="bottom", fontsize=8,
            bbox=box, zorder=4,
        )  # fmt: skip
        if node.label:
            short = node.label if len(node.label) <= 34 else f"{node.label[:16]}…{node.label[-17:]}"
            ax.annotate(
                short, (node.x, node.y), (0, -5), textcoords="offset points", ha="center", va="top", fontsize=6,
                color="#555555", bbox=box, zorder=4,
            )  # fmt: skip
    for x, level in enumerate(levels):
        ax.text(x, 1.08, level, ha="center", va="bottom", fontsize=9.5, fontweight="bold")
        ax.text(x, 1.07, headers.get(level, ""), ha="center", va="top", fontsize=7, color="#333333")
    ax.set(xlim=(-0.45, len(levels) - 0.6), ylim=(-0.03, 1.14))
    ax.set_axis_off()
    looks = [
        (UP, "-", "edge: the target rises with the source"),
        (DOWN, (0, (4, 2)), "edge: it falls"),
        (GREY, "-", "no more than the nulls"),
    ]
    lines = [Line2D([], [], color=colour, ls=style, lw=2, label=label) for colour, style, label in looks]
    figure.legend(handles=lines, loc="outside upper center", ncols=3)
    note(figure, caption)
    return figure


@styled
def degrees(table: pd.DataFrame, caption: str) -> Figure:
    """Draw the edges of every source against how often it fires: a degree that follows the firing rate says little.

    Parameters
    ----------
    table : columns layer, to, source, firing, degree
    """
    pairs = list(dict.fromkeys(zip(table["layer"], table["to"], strict=True)))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = subplots(rows, columns, width=3.1 * columns, height=2.5 * rows + 0.5)
    for ax, (layer, to) in zip(axes, pairs, strict=False):
        some = table[(table["layer"] == layer) & (table["to"] == to)]
        ax.scatter(100 * some["firing"], some["degree"], s=18, color=COLOURS["latent"], linewidths=0)
        ax.set_title(f"layer {layer} to {to}", loc="left")
        ax.set(xlabel="tokens at which it fires [%]", ylabel="edges")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[len(pairs) :]:
        ax.set_visible(False)
    note(figure, caption)
    return figure
