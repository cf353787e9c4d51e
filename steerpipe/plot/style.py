"""One look for every figure, and the names of spaces and thresholds in them."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"latent": "#0072b2", "expression": "#d55e00", "program": "#009e73", "control": "#bdbdbd"}
"""Okabe and Ito's palette: told apart by colour-blind readers too."""

GREY = "#9a9a9a"
"""Scores within their null."""


def colour(label: str) -> str:
    """Return the colour of a recipe by its objective, whatever its form: `latent (cell)` is latent's."""
    name = label.split(",")[0].split(" (")[0].removesuffix("_final")
    return COLOURS.get(name, COLOURS["expression"] if name == "mixed" else COLOURS["control"])


RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "steerpipe",
    "legend.facecolor": "white",  # lines of the axes do not run through its text
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "savefig.facecolor": "white",
    "legend.fontsize": 7.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style, without touching the caller's own settings."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapped


def subplots(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row; sizes in inches. No window is ever opened."""
    figure = Figure(figsize=(width, height))
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))


def note(figure: Figure, text: str) -> None:
    """Say below the figure, on as many lines as its width asks for, which model, data and cells it shows."""
    text = textwrap.fill(text, int(20 * figure.get_figwidth()))
    figure.supxlabel(text, fontsize=6.5, color="#555555", x=0.01, ha="left")
