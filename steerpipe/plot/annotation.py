"""Figures of what features mean."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .style import COLOURS, note, styled, subplots

TITLES = {"sae": "SAE", "neurons": "neurons", "pca": "PCA", "ica": "FastICA", "random": "random SAE"}
MODULES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4173", "#637939", "#843c39")
SHOWN_MODULES = len(MODULES)
LARGEST_DRAWN = 1500


@styled
def dictionaries(table: pd.DataFrame, spread: pd.DataFrame, caption: str) -> Figure:
    """Draw share annotated beside the false-positive rate, participation ratio and maximum IC of each dictionary.

    Parameters
    ----------
    table : columns dictionary, annotated, false_positive; spread : columns dictionary, pr, max_ic
    """
    names = table["dictionary"].tolist()
    titles = [TITLES[name].replace(" ", "\n") for name in names]
    colours = [COLOURS["latent"] if name == "sae" else COLOURS["control"] for name in names]
    figure, (share, pr, content) = subplots(1, 3, width=9.6, height=3.2)
    at = np.arange(len(names))
    bars = share.bar(at, table["annotated"], 0.7, color=colours)
    share.bar_label(bars, [f"{x:.0%}" for x in table["annotated"]], padding=2, fontsize=7.5)
    share.plot(at, table["false_positive"], "D", color="black", ms=4, label="matched random gene sets")
    share.set(ylabel="features with a term, q < 0.05", ylim=(0, max(0.05, 1.25 * float(table["annotated"].max()))))
    share.set_yticks([tick for tick in share.get_yticks() if tick <= 1])
    share.yaxis.set_major_formatter(PercentFormatter(1))
    share.legend(loc="upper right")
    for ax, column, label in (
        (pr, "pr", "participation ratio (genes)"),
        (content, "max_ic", "largest IC of a feature's terms"),
    ):
        values = [spread.loc[spread["dictionary"] == name, column].to_numpy(np.float64) for name in names]
        values = [v[np.isfinite(v) & (v > 0)] for v in values]
        boxes = ax.boxplot(values, positions=at, widths=0.6, patch_artist=True, showfliers=False)
        for patch, colour in zip(boxes["boxes"], colours, strict=True):
            patch.set(facecolor=colour, alpha=0.8)
        for line in boxes["medians"]:
            line.set_color("black")
        ax.set(ylabel=label)
    for ax in (share, pr, content):
        ax.set_xticks(at, titles)
    note(figure, caption)
    return figure


def graph_layout(edges: pd.DataFrame, features: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Place the features of the graph's components: each component by itself (spring layout), packed in rows.

    Returns
    -------
    DataFrame with columns feature, component, module, x, y; components beyond the 1,500th feature are left out
    """
    module = features.set_index("feature")["module"]
    inside = features[features["component"] >= 0]
    sizes = inside["component"].value_counts().sort_index()
    kept = sizes.index[(sizes.cumsum() <= LARGEST_DRAWN) | (np.arange(len(sizes)) == 0)]
    graph = nx.Graph()
    graph.add_weighted_edges_from(edges[["a", "b", "ochiai"]].itertuples(index=False))
    rows, x, y, height = [], 0.0, 0.0, 0.0
    width = 2.2 * np.sqrt(sizes[kept].sum())
    for number in kept:
        members = inside.loc[inside["component"] == number, "feature"].tolist()
        radius = 0.8 * np.sqrt(len(members))
        places = nx.spring_layout(graph.subgraph(members), seed=seed, iterations=60, scale=radius)
        if x > 0 and x + 2 * radius > width:
            x, y, height = 0.0, y - height - 1.5, 0.0
        for feature in members:
            px, py = places[feature]
            rows.append((feature, number, module[feature], x + radius + px, y - radius + py))
        x, height = x + 2 * radius + 1.5, max(height, 2 * radius)
    return pd.DataFrame(rows, columns=["feature", "component", "module", "x", "y"])


def _strongest(edges: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """Keep the edges that are among the n strongest of either end."""
    ordered = edges.sort_values("ochiai", ascending=False, kind="stable")
    rank = [ordered.groupby(end).cumcount() for end in ("a", "b")]
    return ordered[(rank[0] < n) | (rank[1] < n)]


@styled
def feature_graph(layout: pd.DataFrame, edges: pd.DataFrame, modules: pd.DataFrame, caption: str) -> Figure:
    """Draw the feature graph, of each feature its three strongest edges; the ten largest modules are coloured and named."""
    figure, (ax, names) = subplots(1, 2, width=9.6, height=5.4, width_ratios=(1.5, 1))
    place = layout.set_index("feature")
    some = _strongest(edges[edges["a"].isin(place.index) & edges["b"].isin(place.index)])
    start, stop = (place.loc[some[end], ["x", "y"]].to_numpy() for end in ("a", "b"))
    ax.add_collection(
        LineCollection(list(np.stack([start, stop], axis=1)), colors="#999999", linewidths=0.3, alpha=0.35, zorder=0)
    )
    colour = [MODULES[c] if 0 <= c < SHOWN_MODULES else "#444444" for c in layout["module"]]
    ax.scatter(layout["x"], layout["y"], s=9, c=colour, linewidths=0)
    ax.set_aspect("equal")
    for axes in (ax, names):
        axes.set_axis_off()
    sizes = layout["component"].value_counts()
    ax.set_title(f"{len(layout):,} features; components: {len(sizes)}, the largest of {sizes.max():,}; modules: {len(modules)}")
    for i, row in enumerate(modules.head(SHOWN_MODULES).itertuples()):
        y = 1 - (i + 0.5) / SHOWN_MODULES
        name = row.name if len(row.name) <= 46 else f"{row.name[:20]}…{row.name[-24:]}"
        names.scatter([0.02], [y + 0.012], s=30, color=MODULES[i], transform=names.transAxes)
        text = (
            f"{name} ({row.n_features} features, {row.share:.0%} have it)"
            if row.terms
            else f"{name} ({row.n_features} features)"
        )
        names.text(0.06, y, text, fontsize=8, transform=names.transAxes)
        names.text(0.06, y - 0.035, row.genes[:60], fontsize=6.5, color="#555555", transform=names.transAxes)
    note(figure, caption)
    return figure
