"""One function per figure: a tidy frame in, a Figure out. The frame is what is written as the figure's CSV."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..evaluate.inference import LEVEL
from ..evaluate.population import permutation_p
from ..evaluate.recruitment import THRESHOLDS
from .style import COLOURS, colour, note, styled, subplots


@styled
def mirror_boxplot(cells: pd.DataFrame, caption: str) -> Figure:
    """Draw change of distance to the target, per held-out cell, of each recipe in both geometries, with its null drawn in.

    Parameters
    ----------
    cells : columns recipe, kind (recipe, null), space, cell, change (after / before - 1, negative is closer); rows of kind null
        are the same cells under the recipes of the permutation null
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
    recipes = list(dict.fromkeys(cells.loc[cells["kind"] == "recipe", "recipe"]))
    width = max(6.4, 4.2 * len(recipes))  # the line above the figure is that long
    figure, axes = subplots(len(rows), len(recipes), width=width, height=2.8 * len(rows), sharey="row")
    for ax, (recipe, (title, spaces)) in zip(axes, [(recipe, row) for row in rows.items() for recipe in recipes], strict=True):
        for j, kind in enumerate(("recipe", "null")):
            mine = cells[(cells["recipe"] == recipe) & (cells["kind"] == kind)]
            data = [100 * mine.loc[mine["space"] == space, "change"].to_numpy() for space in spaces]
            if not len(mine):
                continue
            at = np.arange(len(spaces)) + 0.36 * (j - 0.5)
            face = colour(recipe) if j == 0 else COLOURS["control"]
            within = [j == 0 and _within_null(cells[cells["recipe"] == recipe], space) for space in spaces]
            outliers = {"ms": 2, "markeredgecolor": face}
            box = ax.boxplot(data, positions=at, widths=0.3, patch_artist=True, flierprops=outliers, showfliers=j == 0)
            for patch, pale in zip(box["boxes"], within, strict=True):
                patch.set(facecolor="white" if pale else face, alpha=0.85)
            for line in box["medians"]:
                line.set_color("black")
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(spaces)), list(spaces.values()))
        ax.set_title(f"{recipe}, scored in {title}", loc="left")
    beyond = 0
    for ax, spaces in zip(axes[:: len(recipes)], rows.values(), strict=True):
        ax.set_ylabel("change of distance\nto the target [%]")
        here = cells[cells["space"].isin(list(spaces))]
        own = 100 * here.loc[here["kind"] == "recipe", "change"]
        margin = 0.15 * max(own.max() - own.min(), 1.0)
        low, high = min(own.min(), 0) - margin, max(own.max(), 0) + margin  # a null's outlier would flatten every box
        beyond += int((~(100 * here.loc[here["kind"] == "null", "change"]).between(low, high)).sum())
        ax.set_ylim(low, high)
    n = cells.loc[cells["kind"] == "recipe", "cell"].nunique()
    deals = cells.loc[cells["kind"] == "null", "deal"].nunique() if "deal" in cells else 0
    hidden = f" ({beyond:,} values beyond the axes)" if beyond else ""
    dealt = f"grey: the same fit to cells dealt at random between the sides, {deals} times{hidden}; white: no better than those"
    grey = dealt if deals else ""
    figure.suptitle(f"{n} held-out source cells; below 0 is closer to the held-out target cells\n{grey}", fontsize=9.5)
    note(figure, caption)
    return figure


def _within_null(cells: pd.DataFrame, space: str) -> bool:
    """Whether the recipe's median change is no better than that of its null's deals, p > .05."""
    here = cells[cells["space"] == space]
    null = here[here["kind"] == "null"]
    if not len(null):
        return False
    medians = null.groupby("deal")["change"].median().to_numpy()
    return bool(permutation_p(float(here.loc[here["kind"] == "recipe", "change"].median()), medians, "lower").p > LEVEL)


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
        for name, mark in zip(dict.fromkeys(here["recipe"]), "oDs^vPX*", strict=False):
            some = here[here["recipe"] == name]
            label = f"{name}: {(some['after'] < some['before']).mean():.0%} closer"
            before, after = some["before"], some["after"]
            ax.scatter(before, after, s=12, alpha=0.7, color=colour(name), marker=mark, linewidths=0, label=label)
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
    objectives = list(dict.fromkeys(paths["objective"]))
    figure, axes = subplots(1, len(objectives), width=4.2 * len(objectives), height=3.3, sharey=True, sharex=True)
    styles = ("-", "--", "-.", ":")
    for ax, objective in zip(axes, objectives, strict=True):
        some = paths[paths["objective"] == objective].sort_values("ratio")
        for threshold, style in zip(THRESHOLDS, styles, strict=True):
            marker = "o" if len(some) < 15 else None
            label = "non-zero" if threshold == THRESHOLDS[0] else f"|theta| > {threshold:g}"
            ax.plot(some["ratio"], some[f"n_{threshold:g}"], style, color=colour(objective), marker=marker, ms=3, label=label)
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
        ax.bar_label(ax.bar(at, some["n"], width * 0.95, color=colour(objective), label=label))
    names = ["non-zero", *(f"> {t:g}" for t in THRESHOLDS[1:])]
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel="threshold on |theta|", ylabel="features recruited")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.3)
    ax.legend(fontsize=7.5)
    note(figure, caption)
    return figure
