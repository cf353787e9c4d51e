"""Figures of dictionaries: training, features, baselines and sweeps. A tidy frame in, a Figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import note, styled, subplots

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"


@styled
def training_curve(curve: pd.DataFrame, caption: str) -> Figure:
    """Draw FVU, L0 and dead features over training tokens.

    Parameters
    ----------
    curve : columns tokens, fvu (of training batches), l0, dead
    """
    figure, axes = subplots(1, 3, width=9, height=2.8)
    for ax, (name, title) in zip(
        axes, {"fvu": "FVU of training batches", "l0": "active features a token", "dead": "dead features"}.items(), strict=True
    ):
        ax.plot(curve["tokens"] / 1e6, curve[name], color=PALETTE[0], lw=1.3)
        ax.set_title(title, loc="left")
        ax.set_xlabel("training tokens [million]")
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1.15 * curve["l0"].max())
    axes[2].set_ylim(0, max(1.0, 1.15 * curve["dead"].max()))
    note(figure, caption)
    return figure


@styled
def features(frame: pd.DataFrame, caption: str) -> Figure:
    """Draw how often features fire and how alike their decoder rows are.

    Parameters
    ----------
    frame : columns density (share of held-out tokens), nearest_cosine
    """
    figure, axes = subplots(1, 2, width=7.4, height=2.9)
    live = frame.loc[frame["density"] > 0, "density"]
    low = np.floor(np.log10(live.min())) if len(live) else -1.0
    axes[0].hist(live, bins=np.logspace(low, 0, 40).tolist(), color=PALETTE[0])
    axes[0].set_xscale("log")
    axes[0].set_xlabel("share of held-out tokens on which it fires")
    axes[0].set_ylabel("features")
    axes[0].set_title(f"density ({len(frame) - len(live)} of {len(frame)} never fire)", loc="left")
    axes[1].hist(
        frame["nearest_cosine"], bins=np.linspace(min(0, frame["nearest_cosine"].min()), 1, 40).tolist(), color=PALETTE[0]
    )
    axes[1].set_xlabel("cosine of the nearest other decoder row")
    axes[1].set_title("decoder rows", loc="left")
    note(figure, caption)
    return figure


@styled
def baselines(table: pd.DataFrame, caption: str) -> Figure:
    """Draw each dictionary's unexplained variance and spliced-in fidelity on held-out cells.

    Parameters
    ----------
    table : columns dictionary, fvu, and fidelity_loss and fidelity_expression, which may be NaN
    """
    columns = {
        "fvu": "FVU (less is better)",
        "fidelity_loss": "fidelity: masked-gene loss",
        "fidelity_expression": "fidelity: predicted expression",
    }
    columns = {name: title for name, title in columns.items() if table[name].notna().any()}
    figure, axes = subplots(1, len(columns), width=1.5 + 2.9 * len(columns), height=0.8 + 0.34 * len(table), sharey=True)
    at = np.arange(len(table))
    for ax, (name, title) in zip(axes, columns.items(), strict=True):
        ax.barh(at, table[name].clip(lower=-1), color=[PALETTE[0], *["#bdbdbd"] * (len(table) - 1)], height=0.65)
        for y, value in zip(at, table[name], strict=True):
            ax.text(max(min(value, 1), 0), float(y), f" {value:.3f}", va="center", fontsize=7.5)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_xlim(min(0.0, 1.1 * float(table[name].clip(lower=-1).min())), 1.25 * max(0.1, float(table[name].max())))
        ax.set_title(title, loc="left")
    axes[0].set_yticks(at, list(table["dictionary"]))
    axes[0].invert_yaxis()
    note(figure, caption)
    return figure


@styled
def frontier(table: pd.DataFrame, settings: pd.DataFrame, caption: str) -> Figure:
    """Draw FVU over L0, dead features over width, and fidelity over stability, of the dictionaries of a sweep.

    Parameters
    ----------
    table : one row a dictionary: expansion, k, seed, n_features, fvu, l0, dead (held-out cells)
    settings : one row a setting: expansion, k, l0, fidelity_loss, recur_energy (either may be NaN), front
    """
    choice = settings.dropna(subset=["fidelity_loss", "recur_energy"])
    figure, axes = subplots(1, 3 if len(choice) else 2, width=12 if len(choice) else 8.2, height=3.2)
    for i, (expansion, rows) in enumerate(table.groupby("expansion")):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        axes[0].scatter(rows["l0"], rows["fvu"], s=22, alpha=0.7, label=f"x{expansion:g}", color=colour, marker=marker)
        mean = rows.groupby("k")[["l0", "fvu"]].mean()
        axes[0].plot(mean["l0"], mean["fvu"], color=colour, lw=1)
        mine = choice[choice["expansion"] == expansion]
        for filled in (True, False) if len(mine) else ():
            some = mine[mine["front"] == filled]
            face, label = (colour if filled else "none"), (f"x{expansion:g}" if filled else None)
            x, y = 100 * some["recur_energy"], some["fidelity_loss"]
            axes[2].scatter(x, y, s=34, marker=marker, label=label, facecolors=face, edgecolors=colour)
            for row in some.itertuples():
                axes[2].annotate(f"k {row.k}", (100 * row.recur_energy, row.fidelity_loss), (4, 3), textcoords="offset points")
    for i, (k, rows) in enumerate(table.groupby("k")):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        axes[1].scatter(rows["n_features"], 100 * rows["dead"], s=22, alpha=0.7, label=f"k {k:g}", color=colour, marker=marker)
        mean_dead = 100 * rows.groupby("n_features")["dead"].mean()
        axes[1].plot(mean_dead.index, mean_dead, color=colour, lw=1)
    axes[0].set_xlabel("active features a token (L0)")
    axes[0].set_ylabel("FVU, held-out cells")
    axes[0].set_yscale("log")
    axes[1].set_xscale("log", base=2)
    axes[1].set_xlabel("features")
    axes[1].set_ylabel("dead on held-out cells [%]")
    axes[1].set_ylim(bottom=0)
    titles = ["reconstruction against sparsity", "dead features against width", "filled: on the front with L0"]
    if len(choice):
        axes[2].set_xlabel("energy in features that other seeds have [%]")
        axes[2].set_ylabel("fidelity: masked-gene loss")
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, loc="left")
        ax.legend()
    note(figure, caption)
    return figure
