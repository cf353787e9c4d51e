"""The transfer matrix, the similarity of features, and the pooled dictionary's features by tissue."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plot.style import GREY, note, styled, subplots

LETTERS = {"generalises": "G", "partly": "P", "needs its own": "N"}
SHADES = {"universal": "#0072b2", "shared": "#9ecae1", "specific": "#d55e00"}


@styled
def atlas(table: pd.DataFrame, shares: pd.DataFrame, tissues: list[str], caption: str) -> Figure:
    """Draw the matrix of excess unexplained variance with verdicts, the similarity, and shares of features as stacked bars.

    Parameters
    ----------
    table : table.pairs
    shares : compute.Features.shares
    """
    size = 2.6 + 0.42 * len(tissues)
    figure, axes = subplots(1, 3, width=3 * size + 3.5, height=size + 0.9, width_ratios=[5, 5, 5])
    excess = table.pivot(index="of", columns="on", values="excess").reindex(index=_rows(table, tissues), columns=tissues)
    codes = table.dropna(subset=["codes"]).assign(least=lambda t: t[["cosine", "codes"]].min(axis=1))
    alike = codes.pivot(index="of", columns="on", values="least").reindex(index=tissues, columns=tissues)
    said = table.pivot(index="of", columns="on", values="verdict").reindex_like(excess)
    top = max(0.2, float(np.nanmax(excess.to_numpy())))
    text = excess.map("{:+.0%}".format) + said.map(lambda one: f" {LETTERS[one]}" if one in LETTERS else "")
    _matrix(axes[0], excess, text, "a  excess unexplained variance", "Reds", 0, top)
    _matrix(axes[1], alike, alike.map("{:.2f}".format), "b  features, of two seeds' similarity", "Blues", 0, 1)
    _bars(axes[2], shares)
    note(figure, caption)
    return figure


def _rows(table: pd.DataFrame, tissues: list[str]) -> list[str]:
    return [*tissues, *(name for name in dict.fromkeys(table["of"]) if name not in tissues)]


def _matrix(ax: Axes, values: pd.DataFrame, text: pd.DataFrame, title: str, colours: str, low: float, high: float) -> None:
    ax.imshow(values.to_numpy(float), cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i in range(len(values)):
        for j in range(values.shape[1]):
            dark = (values.iloc[i, j] - low) / (high - low) > 0.6
            ax.text(j, i, text.iloc[i, j], ha="center", va="center", fontsize=7, color="white" if dark else "black")
    ax.set_xticks(range(values.shape[1]), values.columns, rotation=40, ha="right", fontsize=7)
    ax.set_yticks(range(len(values)), values.index, fontsize=7)
    ax.set_xlabel("held-out cells of")
    ax.set_ylabel("dictionary of")
    ax.set_title(title, loc="left")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _bars(ax: Axes, shares: pd.DataFrame) -> None:
    there = shares[shares["n"] > 0].reset_index(drop=True)
    left = np.zeros(len(there))
    for kind, colour in SHADES.items():
        width = there[kind].to_numpy(float)
        ax.barh(range(len(there)), width, left=left, color=colour, label=kind, height=0.7)
        for y, (at, w) in enumerate(zip(left, width, strict=True)):
            if w > 0.06:
                shade = "black" if kind == "shared" else "white"
                ax.text(at + w / 2, y, f"{w:.0%}", ha="center", va="center", fontsize=6.5, color=shade)
        left += width
    names = [f"{row.cells} ({row.n:.0f})" for row in there.itertuples()]
    ax.set_yticks(range(len(there)), names, fontsize=7)
    for label, name in zip(ax.get_yticklabels(), there["cells"], strict=True):
        if "dealt anew" in name:
            label.set_color(GREY)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the pooled dictionary's features")
    ax.set_title("c  features by tissue (cells)", loc="left")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3, fontsize=7)
