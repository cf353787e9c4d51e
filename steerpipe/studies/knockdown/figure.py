"""Recipes beside recipes, clustered; and how each ranks the real DE genes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ...plot.style import COLOURS, GREY, note, styled, subplots


def order(similarity: np.ndarray) -> np.ndarray:
    """Return the order (P,) of average-linkage clustering."""
    if len(similarity) < 3:
        return np.arange(len(similarity))
    distance = 1 - (similarity + similarity.T) / 2
    np.fill_diagonal(distance, 0)
    return np.asarray(leaves_list(linkage(squareform(np.maximum(distance, 0), checks=False), "average", optimal_ordering=True)))


@styled
def knockdown(table: pd.DataFrame, similarity: pd.DataFrame, block: Sequence[str], caption: str) -> Figure:
    """Draw the cosines of all pairs of recipes, and AUPRC of each beside its null, controls and ceiling.

    Parameters
    ----------
    table : one row a perturbation, see table.row
    similarity : (P, P), by name
    """
    names = [similarity.index[i] for i in order(similarity.to_numpy())]
    height = max(4.2, 1.4 + 0.2 * len(names))
    figure, (left, right) = subplots(1, 2, width=12, height=height, width_ratios=[6, 5])
    image = left.imshow(similarity.loc[names, names], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=left, shrink=0.6, label="cosine of recipes")
    left.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set_title("a  recipes", loc="left")
    _scores(right, table.set_index("perturbation").loc[names])
    right.set_title("b  real DE genes, held-out cells", loc="left")
    for axis in (left.get_xticklabels(), left.get_yticklabels(), right.get_yticklabels()):
        for text in axis:
            if text.get_text() in block:
                text.set_fontweight("bold")
                text.set_color(COLOURS["expression"])
    note(figure, caption)
    return figure


def _scores(ax: Axes, rows: pd.DataFrame) -> None:
    at = [float(y) for y in range(len(rows))]
    for y, one in zip(at, rows.itertuples(), strict=True):
        if not np.isfinite(one.auprc):
            ax.text(0.02, y, f"{one.de} DE genes: not scored", va="center", fontsize=6.5, color=GREY)
            continue
        ax.plot([one.auprc_null_lo, one.auprc_null_hi], [y, y], color="#cccccc", lw=5, solid_capstyle="butt", zorder=1)
        ax.plot([one.chance, one.chance], [y - 0.35, y + 0.35], color="black", lw=0.8, ls=":", zorder=2)
        ax.plot(one.auprc_random, y, "|", color=GREY, ms=8, zorder=2)
        ax.plot(one.auprc_dense, y, "x", color="black", ms=5, zorder=3)
        ax.plot(one.auprc_ceiling, y, "o", mfc="none", color="black", ms=5, zorder=3)
        beyond = one.auprc_q <= 0.05
        ax.plot(one.auprc, y, "o", color=COLOURS["latent"] if beyond else GREY, ms=6, zorder=4)
    for mark, label, colour in (("o", "recipe, beyond its null", COLOURS["latent"]), ("o", "recipe, within it", GREY),
                                ("x", "dense vector", "black"), ("|", "random features", GREY)):  # fmt: skip
        ax.plot([], [], mark, color=colour, label=label)
    ax.plot([], [], "o", mfc="none", color="black", label="other half of the cells")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.04), ncols=3)
    ax.set_yticks(at, rows.index, fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    shown = rows[["auprc", "auprc_null_hi", "auprc_random", "auprc_dense", "auprc_ceiling", "chance"]][rows["auprc"].notna()]
    ax.set_xlim(0, max(0.3, 1.08 * np.nanmax(shown.to_numpy(float), initial=0.0)))
    ax.set_xlabel("AUPRC")
