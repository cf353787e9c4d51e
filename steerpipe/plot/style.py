"""One look for every figure, and the names of spaces and thresholds in them."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"no-op": "#8c8c8c", "latent": "#0072b2", "expression": "#d55e00", "control": "#bdbdbd"}
"""Okabe and Ito's palette: told apart by colour-blind readers too."""

RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "steerpipe",
    "legend.frameon": False,
    "savefig.facecolor": "white",
}


def subplots(rows: int, columns: int, *, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a styled figure and its axes, row by row; sizes in inches."""
    mpl.use("Agg", force=False)
    with mpl.rc_context(RC):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
    return figure, list(axes.flat)


def note(figure: Figure, text: str) -> None:
    """Say below the figure which model, data and cells it shows."""
    figure.supxlabel(text, fontsize=7, color="#555555", x=0.01, ha="left")
