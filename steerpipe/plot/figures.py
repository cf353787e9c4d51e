"""One function per figure: a tidy frame in, a Figure out. The frame is what is written as the figure's CSV."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluate.recruitment import THRESHOLDS
from .style import COLOURS, note, styled, subplots


@styled
def mirror_boxplot(cells: pd.DataFrame, caption: str) -> Figure:
    """Draw change of distance to the target, per held-out cell, of both objectives in both geometries.

    Parameters
    ----------
    cells : columns recipe, space, change (after / before - 1, negative is closer)
    """
    rows = {
        "latent space": {"layer": "steered layer", "final": "final LayerNorm", "layer_nearest": "10 nearest\ntarget cells"},
        "predicted expression": {
            "de_up": "DE genes up",
            "de_down": "DE genes down",
            "de_up_unseen": "up, not seen\nby the fit",
            "de_down_unseen": "down, not seen\nby the fit",
        },
    }
    scored = set(cells["space"])  # a model without an output head has no expression to be scored in
    rows = {title: {name: label for name, label in spaces.items() if name in scored} for title, spaces in rows.items()}
    rows = {title: spaces for title, spaces in rows.items() if spaces}
    objectives = [name for name in ("latent", "expression") if name in set(cells["recipe"])]
    width = max(6.4, 4.2 * len(objectives))  # the line above the figure is that long
    figure, axes = subplots(len(rows), len(objectives), width=width, height=2.8 * len(rows), sharey="row")
    for ax, (objective, (title, spaces)) in zip(
        axes, [(objective, row) for row in rows.items() for objective in objectives], strict=True
    ):
        for j, name in enumerate((objective, f"random features, as {objective}")):
            mine = cells[cells["recipe"] == name]
            data = [100 * mine.loc[mine["space"] == space, "change"].to_numpy() for space in spaces]
            if not len(mine):
                continue
            at = np.arange(len(spaces)) + 0.36 * (j - 0.5)
            colour = COLOURS[objective] if j == 0 else COLOURS["control"]
            outliers = {"ms": 2, "markeredgecolor": colour}
            box = ax.boxplot(data, positions=at, widths=0.3, patch_artist=True, flierprops=outliers)
            for patch in box["boxes"]:
                patch.set(facecolor=colour, alpha=0.85)
            for line in box["medians"]:
                line.set_color("black")
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(spaces)), list(spaces.values()))
        ax.set_title(f"{objective} objective, scored in {title}", loc="left")
    beyond = 0
    for ax, spaces in zip(axes[:: len(objectives)], rows.values(), strict=True):
        ax.set_ylabel("change of distance\nto the target [%]")
        here = cells[cells["space"].isin(list(spaces))]
        own = 100 * here.loc[here["recipe"].isin(objectives), "change"]
        margin = 0.15 * max(own.max() - own.min(), 1.0)
        low, high = min(own.min(), 0) - margin, max(own.max(), 0) + margin  # a control's outlier would flatten every box
        drawn = here["recipe"].isin([f"random features, as {name}" for name in objectives])
        beyond += int((~(100 * here.loc[drawn, "change"]).between(low, high)).sum())
        ax.set_ylim(low, high)
    n = cells.loc[cells["recipe"] == objectives[0], "cell"].nunique()
    hidden = f" ({beyond:,} values beyond the axes)" if beyond else ""
    grey = f"grey, beside each box: random features, same strengths{hidden}"
    figure.suptitle(f"{n} held-out source cells; below 0 is closer to the held-out target cells\n{grey}", fontsize=9.5)
    note(figure, caption)
    return figure


@styled
def before_after(cells: pd.DataFrame, caption: str) -> Figure:
    """Draw each held-out cell's distance to the target before and after, in latent and in expression space.

    Parameters
    ----------
    cells : columns recipe, space, before, after
    """
    spaces = {"layer": "latent space (steered layer)", "de_up": "DE genes up", "de_down": "DE genes down"}
    spaces = {name: title for name, title in spaces.items() if name in set(cells["space"])}
    figure, axes = subplots(1, len(spaces), width=max(5.6, 3.2 * len(spaces)), height=3.4)
    for ax, (space, title) in zip(axes, spaces.items(), strict=True):
        here = cells[cells["space"] == space]
        for name in ("latent", "expression"):
            some = here[here["recipe"] == name]
            label = f"{name}: {(some['after'] < some['before']).mean():.0%} closer" if len(some) else None
            ax.scatter(some["before"], some["after"], s=12, alpha=0.7, color=COLOURS[name], label=label, linewidths=0)
        limits = [here[["before", "after"]].to_numpy().min() * 0.95, here[["before", "after"]].to_numpy().max() * 1.05]
        ax.plot(limits, limits, color="black", lw=0.8, zorder=0)
        ax.set(xlim=limits, ylim=limits, xlabel="distance before", title=title)
        ax.legend(fontsize=7.5, loc="upper left", handletextpad=0.2)
    axes[0].set_ylabel("distance after\n(below the line: closer)")
    note(figure, caption)
    return figure


@styled
def sparsity(paths: pd.DataFrame, caption: str) -> Figure:
    """Draw how many features are recruited along the lambda path, at four thresholds.

    Parameters
    ----------
    paths : columns objective, ratio (lambda over lambda_max), n_1e-06, n_0.05, n_0.1, n_0.3
    """
    objectives = [name for name in ("latent", "expression") if name in set(paths["objective"])]
    figure, axes = subplots(1, len(objectives), width=4.2 * len(objectives), height=3.3, sharey=True, sharex=True)
    styles = ("-", "--", "-.", ":")
    for ax, objective in zip(axes, objectives, strict=True):
        some = paths[paths["objective"] == objective].sort_values("ratio")
        for threshold, style in zip(THRESHOLDS, styles, strict=True):
            marker = "o" if objective == "expression" else None
            label = "non-zero" if threshold == THRESHOLDS[0] else f"|theta| > {threshold:g}"
            ax.plot(some["ratio"], some[f"n_{threshold:g}"], style, color=COLOURS[objective], marker=marker, ms=3, label=label)
        ax.set(xscale="log", xlabel="lambda / lambda_max", title=f"{objective} objective ({len(some)} points)")
        ax.legend(fontsize=7.5)
    axes[0].invert_xaxis()
    axes[0].set_ylabel("features recruited")
    note(figure, caption)
    return figure


@styled
def feature_counts(counts: pd.DataFrame, caption: str) -> Figure:
    """Draw the number of recruited features of each objective at four thresholds.

    Parameters
    ----------
    counts : columns objective, threshold, n, ratio
    """
    figure, (ax,) = subplots(1, 1, width=5.8, height=3.2)
    objectives = list(dict.fromkeys(counts["objective"]))
    width = 0.8 / len(objectives)
    for j, objective in enumerate(objectives):
        some = counts[counts["objective"] == objective].sort_values("threshold")
        at = np.arange(len(some)) + width * (j - (len(objectives) - 1) / 2)
        label = f"{objective} (lambda {some['ratio'].iloc[0]:.3g} of its maximum)"
        ax.bar_label(ax.bar(at, some["n"], width * 0.95, color=COLOURS[objective], label=label))
    names = ["non-zero", *(f"> {t:g}" for t in THRESHOLDS[1:])]
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel="threshold on |theta|", ylabel="features recruited")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.3)
    ax.legend(fontsize=7.5)
    note(figure, caption)
    return figure
