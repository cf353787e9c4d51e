"""The figure of a regulation study."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plot.style import COLOURS, GREY, note, styled, subplots
from .arms import DEALT, KINDS, TF
from .table import PEERS

SHOWN = 40
KIND_COLOURS = dict(zip(KINDS, (COLOURS["latent"], "#e69f00", GREY), strict=True))
SHARES = {"asymmetric": "F > R", "beyond_coexpression": "beyond\nco-expression", "regulates": "both"}


@styled
def overview(table: pd.DataFrame, summary: pd.DataFrame, caption: str) -> Figure:
    """Draw each TF's AUROC and asymmetry beside their nulls, and what the arms come to beside peers' rates.

    Parameters
    ----------
    table, summary : as of table.tf_table and table.summary; the TFs of smallest p are drawn, SHOWN of them at the most
    """
    own = table[table["kind"] == TF].sort_values("auroc_p", kind="stable").head(SHOWN)
    shown = f"{len(own)} of {int((table['kind'] == TF).sum())} TFs" if len(own) < (table["kind"] == TF).sum() else "all TFs"
    figure, (left, middle, right, last) = subplots(
        1, 4, width=12.5, height=2.4 + 0.16 * max(len(own), 8), width_ratios=[3, 3, 2.6, 1.9]
    )
    dealt = table[(table["kind"] == DEALT) & (table["draw"] == 0)].set_index("tf").reindex(own["tf"])
    at = np.arange(len(own))[::-1]
    for ax, name, filled in ((left, "auroc", own["beyond_coexpression"]), (middle, "asymmetry", own["asymmetry_q"] < 0.05)):
        ax.hlines(at, own[f"{name}_lo"], own[f"{name}_hi"], color="#d9d9d9", lw=6, label="95 % of the null")
        face = np.where(filled, KIND_COLOURS[TF], "white")
        ax.scatter(own[name], at, s=26, c=face, edgecolor=KIND_COLOURS[TF], zorder=3, label="TF (filled: q < .05)")
        ax.scatter(dealt[name], at, s=18, marker="D", facecolor="none", edgecolor="#555555", zorder=2, label=DEALT)
        ax.set_ylim(-1, len(own))
        ax.set_yticks(at, own["tf"] if ax is left else [""] * len(own))
    left.scatter(own["auroc_unmatched"], at, s=20, marker="x", color="black", lw=0.9, zorder=4, label="against all other genes")
    left.axvline(0.5, color="black", lw=0.8)
    left.set(xlabel="AUROC of |F|, targets against matched genes", xlim=(0, 1))
    left.set_title(f"beyond co-expression ({shown})", loc="left")
    middle.axvline(0, color="black", lw=0.8)
    middle.set(xlabel="(|F| - |R|) / (|F| + |R|)", xlim=(-1.05, 1.05))
    middle.set_title("TF moves target, or target TF", loc="left")
    _shares(right, summary)
    _signs(last, summary)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    note(figure, caption)
    return figure


def _shares(ax: Axes, summary: pd.DataFrame) -> None:
    """The share of TFs of each arm that pass each test, with peers' rates."""
    rows = summary.set_index("kind")
    width = 0.8 / len(rows)
    for i, kind in enumerate(rows.index):
        values = 100 * rows.loc[kind, list(SHARES)].to_numpy(float)
        where = np.arange(len(SHARES)) + (i - (len(rows) - 1) / 2) * width
        ax.bar(where, values, width, color=KIND_COLOURS[kind], label=kind)
        ax.scatter(where[values == 0], np.zeros((values == 0).sum()), s=10, color=KIND_COLOURS[kind], zorder=3, clip_on=False)
    for i, value in enumerate((PEERS["low"], PEERS["high"])):
        ax.axhline(100 * value, color="#d55e00", lw=1, ls="--", label=None if i else "another model: 6.2 and 10.4 %")
    ax.set_xticks(range(len(SHARES)), list(SHARES.values()))
    top = 100 * float(np.nanmax(rows[list(SHARES)].to_numpy(float)))
    ax.set(ylabel="TFs at q < .05 [%]", ylim=(0, max(1.5 * top, 22)))
    ax.set_title("evidence of regulation", loc="left")
    ax.legend(loc="upper right")


def _signs(ax: Axes, summary: pd.DataFrame) -> None:
    """Agreement of signs of each arm, with its chance."""
    rows = summary.set_index("kind")
    where = np.arange(len(rows))
    ax.bar(where, 100 * rows["sign_agreement"], 0.7, color=[KIND_COLOURS[kind] for kind in rows.index])
    ax.scatter(where, 100 * rows["sign_chance"], marker="_", s=260, color="black", zorder=3, label="chance")
    ax.axhline(100 * PEERS["sign"], color="#d55e00", lw=1, ls="--", label="another model: 56.4 %")
    ax.set_xticks(where, [kind.replace(" ", "\n") for kind in rows.index], fontsize=7)
    ax.set(ylabel="pairs whose sign agrees [%]", ylim=(0, 140))
    ax.set_yticks(range(0, 101, 20))
    ax.set_title("signs, as in the network", loc="left")
    ax.legend(loc="upper right")
