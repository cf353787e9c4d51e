"""Figures of the recruitment diagnosis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from ...evaluate.inference import LEVEL
from ...evaluate.recruitment import THRESHOLDS
from ...plot.style import COLOURS, GREY, note, styled, subplots

OBJECTIVES = ("latent", "expression")
STYLES = ("-", "--", "-.", ":")


@styled
def recruitment(cap: pd.DataFrame, path: pd.DataFrame, features: pd.DataFrame, *, stable: float, caption: str) -> Figure:
    """Draw the diagnosis: gene cap, noise floors, counts over lambda, selection stability.

    Parameters
    ----------
    cap : columns n_genes, top_n, n_1e-06, n_0.1, de_up_unseen_change, de_down_unseen_change
    path : columns objective, ratio, n_1e-06, n_0.05, n_0.1, n_0.3
    features : columns objective, activation, activation_floor, effect, effect_floor, null_p, stability, verdict
    stable : share of refits that counts as stable
    """
    figure, (a, b, c, d) = subplots(2, 2, width=9.4, height=7.2)
    _cap(a, cap)
    _floors(b, features, stable)
    _path(c, path)
    _stability(d, features, stable)
    for letter, ax in zip("abcd", (a, b, c, d), strict=True):
        title = ax.get_title()
        ax.set_title("")
        ax.set_title(f"{letter}  {title}", loc="left")
    note(figure, caption)
    return figure


@styled
def lambda_path(path: pd.DataFrame, caption: str) -> Figure:
    """Draw how many features both objectives recruit over the lambda ratio, on one axis.

    Parameters
    ----------
    path : columns objective, ratio, n_1e-06, n_0.05, n_0.1, n_0.3
    """
    figure, (ax,) = subplots(1, 1, width=6.4, height=4.2)
    _path(ax, path)
    note(figure, caption)
    return figure


@styled
def widths(table: pd.DataFrame, caption: str) -> Figure:
    """Draw features recruited, their entanglement and the held-out change of dictionaries of several widths.

    Parameters
    ----------
    table : one row a dictionary and objective: columns sae, objective, n_1e-06, n_0.1, entanglement, entanglement_active,
        layer_change, de_up_change, de_down_change
    """
    figure, (left, middle, right) = subplots(1, 3, width=10.4, height=3.6)
    names = list(dict.fromkeys(table["sae"]))
    for j, objective in enumerate(OBJECTIVES):
        some = table[table["objective"] == objective].set_index("sae").loc[names]
        at = np.arange(len(names)) + 0.38 * (j - 0.5)
        left.bar_label(left.bar(at, some["n_1e-06"], 0.36, color=COLOURS[objective], label=objective))
        bars = middle.bar(at, some["entanglement"], 0.36, color=COLOURS[objective], label=f"recruited, {objective}")
        middle.bar_label(bars, fmt="%.2f", label_type="center", color="white")
    first = table.drop_duplicates("sae").set_index("sae").loc[names]
    for i, value in enumerate(first["entanglement_active"]):
        middle.plot([i - 0.4, i + 0.4], [value, value], color="black", lw=1.2, label="all active features" if i == 0 else None)
    spaces = {"layer": "latent\n(layer)", "de_up": "DE up", "de_down": "DE down"}
    width = 0.8 / len(table)
    for j, row in enumerate(table.itertuples()):
        values = [100 * getattr(row, f"{space}_change") for space in spaces]
        hatch = None if row.sae == names[0] else "///"
        at = np.arange(len(spaces)) + width * (j - (len(table) - 1) / 2)
        options: dict[str, Any] = {"hatch": hatch, "edgecolor": "white", "label": f"{row.objective}, {row.sae}"}
        right.bar(at, values, width * 0.95, color=COLOURS[str(row.objective)], **options)
    left.set(title="features recruited", ylabel="features, |theta| > 0")
    middle.set(title="entanglement of their gene sets", ylabel="mean of min / max of up, down")
    right.set(title="held-out cells", ylabel="median change of distance [%]")
    right.axhline(0, color="black", lw=0.8)
    right.set_xticks(range(len(spaces)), list(spaces.values()))
    for ax in (left, middle):
        ax.set_xticks(range(len(names)), names)
        ax.margins(y=0.3)
    for ax in (left, middle, right):
        ax.legend(loc="upper left" if ax is not right else "best")
    right.margins(y=0.15)
    right.set_ylim(top=max(right.get_ylim()[1], 0) + 0.45 * abs(right.get_ylim()[0]))
    note(figure, caption)
    return figure


def _cap(ax: Axes, cap: pd.DataFrame) -> None:
    at = range(len(cap))
    for name, style, label in (("n_1e-06", "-o", "features, non-zero"), ("n_0.1", "--o", "features, |theta| > 0.1")):
        ax.plot(at, cap[name], style, color="black", ms=3.5, label=label)
    ax.set(title="gene cap: expression refitted on its n strongest genes", xlabel="n genes", ylabel="features recruited")
    ax.set_xticks(at, [f"{top}\n({n})" if top == "all" else top for top, n in zip(cap["top_n"], cap["n_genes"], strict=True)])
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=0)
    other = ax.twinx()
    for name, marker in (("up", "^"), ("down", "v")):
        values = 100 * cap[f"de_{name}_unseen_change"]
        label = f"DE genes {name}, not seen"
        other.plot(at, values, "-", marker=marker, color=COLOURS["expression"], ms=4, lw=1, label=label, alpha=0.8)
    other.set_ylabel("held-out cells: change of distance [%]", color=COLOURS["expression"])
    other.spines["right"].set_visible(True)
    lines, labels = ax.get_legend_handles_labels()
    more, names = other.get_legend_handles_labels()
    low, high = other.get_ylim()
    other.set_ylim(low, high + 0.45 * (high - low))
    ax.set_ylim(top=1.5 * ax.get_ylim()[1])
    ax.legend([*lines, *more], [*labels, *names], loc="upper left", ncols=2)


def _floors(ax: Axes, features: pd.DataFrame, stable: float) -> None:
    """Effect over its floor against activity over its floor; the quadrant above and right of 1 is above both."""
    shown, lowest = [], 0.0
    for objective in dict.fromkeys([*OBJECTIVES, *features["objective"]]):
        some = features[features["objective"] == objective]
        x = some["activation"] / some["activation_floor"].clip(lower=1e-12)
        y = some["effect"] / some["effect_floor"].abs().clip(lower=1e-12)
        y = np.where(some["effect_floor"] > 0, y, np.where(some["effect"] > some["effect_floor"], 20, -20))
        firm = (some["stability"] >= stable).to_numpy()
        x, y = np.clip(x.to_numpy(), 0.05, 20), np.clip(np.asarray(y), -20, 20)
        within = (some["null_p"] > LEVEL).to_numpy()
        for grey in (False, True):
            edge = GREY if grey else COLOURS[objective]
            for chosen, face in ((firm & (within == grey), edge), (~firm & (within == grey), "none")):
                ax.scatter(x[chosen], y[chosen], s=26, facecolors=face, edgecolors=edge, linewidths=1)
        above = int(((x > 1) & (y > 1)).sum())
        ax.scatter([], [], s=26, color=COLOURS[objective], label=f"{objective}: {above} of {len(some)} above both")
        shown.append(x)
        lowest = min(lowest, y.min(initial=0))
    ax.scatter([], [], s=26, color=GREY, label="within the permutation null")
    ax.scatter([], [], s=26, facecolors="none", edgecolors="black", label=f"in fewer than {stable:.0%} of the refits")
    ax.axhline(1, color="black", lw=0.8, ls="--")
    ax.axvline(1, color="black", lw=0.8, ls="--")
    every = np.concatenate(shown) if shown else np.ones(1)
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_xlim(min(0.5, every.min() / 1.2), max(2, every.max() * 1.2))
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    marks = [-20, -5, -1, 0, 1, 2, 5, 20] if lowest < 0 else [0, 1, 2, 5, 20]
    ax.set_yticks(marks, [f"{m:g}" for m in marks])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(-120 if lowest < 0 else -1.5, 30)  # room for the legend below
    ax.set(
        title="noise floors of each recruited feature",
        xlabel="activity / its floor",
        ylabel="effect / its floor (beyond 20: cut off)",
    )
    ax.legend(loc="lower left")


def _path(ax: Axes, path: pd.DataFrame) -> None:
    for objective in OBJECTIVES:
        some = path[path["objective"] == objective].sort_values("ratio")
        for threshold, style in zip(THRESHOLDS, STYLES, strict=True):
            marker = "o" if objective == "expression" else None
            label = f"{objective}, " + ("non-zero" if threshold == THRESHOLDS[0] else f"> {threshold:g}")
            ax.plot(some["ratio"], some[f"n_{threshold:g}"], style, color=COLOURS[objective], marker=marker, ms=3, label=label)
    ax.set(xscale="log", xlabel="lambda / lambda_max", ylabel="features recruited")
    ax.set_title("both objectives over lambda (thresholds on |theta|)")
    ax.invert_xaxis()
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", ncols=2)
    ax.set_ylim(0, 1.25 * max(1, path["n_1e-06"].max()))


def _stability(ax: Axes, features: pd.DataFrame, stable: float) -> None:
    for objective in dict.fromkeys([*OBJECTIVES, *features["objective"]]):
        shares = np.sort(features.loc[features["objective"] == objective, "stability"].to_numpy())[::-1]
        label = f"{objective}: {int((shares >= stable).sum())} of {len(shares)} stable"
        ax.plot(np.arange(1, len(shares) + 1), shares, "o-", ms=3.5, color=COLOURS[objective], label=label)
    ax.axhline(stable, color="black", lw=0.8, ls="--")
    ax.set(title="selection stability", xlabel="recruited features, most stable first", ylabel="share of half-sample refits")
    ax.set_ylim(-0.03, 1.08)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower left")
