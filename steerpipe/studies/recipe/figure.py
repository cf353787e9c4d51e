"""The figure of a recipe study: the score, the features, the genes."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...pipeline.program_scores import ALIKE, CROSS, LEVEL, OWN, RANDOM, RECIPE, STEEPEST, row_of
from ...plot.style import COLOURS, GREY, note, styled, subplots
from .perturb import KINDS
from .table import Answer

SHOWN = 12
HALF_COLOURS = {"seen": "#999999", "held": COLOURS["latent"]}
KIND_COLOURS = dict(zip(KINDS, (COLOURS["latent"], COLOURS["expression"]), strict=True))
NAMES = {
    RECIPE: "the recipe",
    STEEPEST: "steepest direction\n(no recipe)",
    OWN: "random programmes\n(their own rise)",
    CROSS: "random programmes'\nrecipes",
    "named together": "named genes\nperturbed together",
    "random candidates": "random genes\nperturbed together",
}


@styled
def three_panels(answer: Answer, bars: pd.DataFrame, caption: str) -> Figure:
    """Draw the programme's rise with its controls, the recipe's features with terms, and the ranked perturbations.

    Parameters
    ----------
    bars : of score_bars
    """
    figure, (left, middle, right) = subplots(1, 3, width=13.5, height=4.6, width_ratios=[3, 3.4, 2.8])
    _score(left, bars, answer)
    _features(middle, answer.terms.head(SHOWN))
    _genes(right, answer.genes[~answer.genes["apart"].to_numpy(bool)].head(SHOWN))
    for letter, ax in zip("abc", (left, middle, right), strict=True):
        title = ax.get_title(loc="left")
        ax.set_title(f"{letter}  {title}", loc="left", fontweight="bold", fontsize=9)
    note(figure, caption)
    return figure


def score_bars(answer: Answer) -> pd.DataFrame:
    """Return the bars of the first panel: rise, lo and hi of every edit and half; the loop's beside them."""
    bars = answer.scores[answer.scores["half"].isin(HALF_COLOURS)]
    columns = ["what", "half", "rise", "lo", "hi"]
    bars = bars[~bars["what"].isin(["no-op", ALIKE])][columns]
    if answer.loop is None:
        return bars.reset_index(drop=True)
    loop = answer.loop[
        answer.loop["half"].isin(HALF_COLOURS) & answer.loop["what"].isin(["named together", "random candidates"])
    ]
    groups = loop.groupby(["what", "half"], sort=False)["rise"]
    found = groups.mean().reset_index().assign(lo=groups.quantile(0.025).to_numpy(), hi=groups.quantile(0.975).to_numpy())
    return pd.concat([bars, found[columns]], ignore_index=True)


def _score(ax: Axes, bars: pd.DataFrame, answer: Answer) -> None:
    names = list(dict.fromkeys(bars["what"]))
    at = np.arange(len(names))[::-1]
    ax.axhspan(at[0] - 0.5, at[0] + 0.5, color="#f0f0f0", zorder=0)
    for i, (half, hue) in enumerate(HALF_COLOURS.items()):
        rows = bars[bars["half"] == half].set_index("what").reindex(names)
        where = at + 0.19 - 0.38 * i
        ax.barh(where, rows["rise"], 0.36, color=hue, label={"seen": "genes of the fit", "held": "held-out genes"}[half])
        ax.hlines(where, rows["lo"], rows["hi"], color="black", lw=1)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(at, [NAMES.get(name, name) for name in names])
    ax.set_xlabel("rise of the programme's score in held-out cells [log1p CP10K]")
    own = row_of(answer.scores, RECIPE)
    marks = {RANDOM: own["p_features"], OWN: own["p_program"], CROSS: own["p_cross"], "random candidates": answer.loop_p}
    width = ax.get_xlim()[1] - ax.get_xlim()[0]
    ends = bars.groupby("what")[["rise", "hi"]].max().max(axis=1)
    for y, name in zip(at, names, strict=True):
        if np.isfinite(marks.get(name, np.nan)):
            ax.text(max(ends[name], 0) + 0.03 * width, y, f"p = {marks[name]:.2g}", va="center", fontsize=7, color="#555555")
    verdict = "beyond its null" if answer.beyond else "not beyond its null"
    ax.set_title(f"{textwrap.shorten(answer.name, 34)}: {verdict}", loc="left")
    ax.legend(loc="lower right")


def _features(ax: Axes, terms: pd.DataFrame) -> None:
    at = np.arange(len(terms))[::-1]
    known = (terms["q"] < LEVEL).to_numpy(bool)
    ax.barh(at, terms["theta"], 0.7, color=np.where(known, COLOURS["latent"], "#c9d9e6"))
    ax.axvline(0, color="black", lw=0.8)
    low, high = min(0.0, float(terms["theta"].min())), max(0.0, float(terms["theta"].max()))
    span = max(high - low, 1e-9)
    for y, row, there in zip(at, terms.itertuples(), known, strict=True):
        text = textwrap.shorten(str(row.term), 46, placeholder="...") if there else " ".join(str(row.genes).split()[:4])
        style = "normal" if there else "italic"
        ax.text(high + 0.06 * span, y, text, va="center", fontsize=7, color="black" if there else GREY, style=style)
    ax.set_xlim(low - 0.04 * span, high + 1.25 * span)
    ax.set_xticks([tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high])
    ax.set_yticks(at, [str(feature) for feature in terms["feature"]])
    ax.set_xlabel("theta", loc="left")
    ax.set_ylabel("feature")
    ax.spines["bottom"].set_bounds(low, high)
    ax.set_title("features; terms without the programme's genes", loc="left")


def _genes(ax: Axes, genes: pd.DataFrame) -> None:
    at = np.arange(len(genes))[::-1]
    colours = [KIND_COLOURS[kind] if named else GREY for kind, named in zip(genes["kind"], genes["named"], strict=True)]
    ax.hlines(at, 0, 100 * genes["stability"].to_numpy(float), color=colours, lw=1.5)
    ax.scatter(100 * genes["stability"], at, s=34, c=colours, zorder=3, clip_on=False)
    marks = {KINDS[0]: "-", KINDS[1]: "+"}
    ax.set_yticks(at, [f"{row.gene} {marks[row.kind]}" for row in genes.itertuples()])
    ax.set(xlabel="half-samples whose combination has it [%]", xlim=(0, 105))
    for kind, hue in KIND_COLOURS.items():
        ax.scatter([], [], c=hue, s=30, label=f"{marks[kind]}  {kind}")
    ax.scatter([], [], c=GREY, s=30, label="not named")
    ax.set_title("perturbations that explain the shift", loc="left")
    ax.legend(loc="lower right")
