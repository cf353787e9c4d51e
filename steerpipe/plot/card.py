"""One feature's card."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, note, styled, subplots

SHOWN = 12


@styled
def card(
    row: pd.Series,
    genes: pd.DataFrame,
    terms: pd.DataFrame,
    types: pd.DataFrame,
    dose: pd.DataFrame | None,
    where: str,
    q: float,
    caption: str,
) -> Figure:
    """Draw a feature's top genes, cell types, terms and dose response.

    Parameters
    ----------
    row : of the feature table; genes : gene, mean_abs_code; terms : term, q; types : type, mean
    dose : kind, seed, alpha, up, down; None for a feature that cannot be steered
    where : cells that it is steered in; q : threshold of the terms
    """
    figure, (left, middle, below, right) = subplots(2, 2, width=9.6, height=6.2)
    _bars(left, genes["gene"], genes["mean_abs_code"], "mean |code|", f"top genes of {row['n_genes']}")
    _bars(middle, types["type"], types["mean"], "mean |code| of a cell's tokens", "cell types")
    names = [term if len(term) <= 46 else f"{term[:22]}…{term[-22:]}" for term in terms["term"]]
    _bars(below, pd.Series(names, dtype=object), -np.log10(terms["q"].clip(lower=1e-300)), "-log10 q", "terms")
    below.axvline(-np.log10(q), color="black", lw=0.8, ls=":")
    if dose is not None:
        _dose(right, dose, where)
    else:
        right.set_axis_off()
    title = row["label"] or "no significant term"
    figure.suptitle(f"feature {row['feature']}: {title}  (on {row['density']:.2%} of tokens)", fontsize=10)
    note(figure, caption)
    return figure


def _bars(ax: Axes, names: pd.Series, values: pd.Series, label: str, title: str) -> None:
    names, values = names.iloc[:SHOWN], values.iloc[:SHOWN]
    at = np.arange(len(names))
    ax.barh(at, values, 0.7, color=COLOURS["latent"])
    ax.set_yticks(at, names.tolist(), fontsize=7)
    ax.set_ylim(SHOWN - 0.4, -0.6)
    ax.set(xlabel=label, title=title)


def _dose(ax: Axes, dose: pd.DataFrame, where: str) -> None:
    """Genes up above the line and genes down below it; nulls as bands from the smallest to the largest draw."""
    looks = {"random direction": "#e69f00", "random feature": "#999999", "feature": COLOURS["latent"]}
    for kind, colour in looks.items():
        some = dose[dose["kind"] == kind]
        if some.empty:
            continue
        for column, sign in (("up", 1), ("down", -1)):
            group = some.groupby("alpha")[column]
            label = kind if sign > 0 else None
            if kind != "feature":
                low, high = group.min(), group.max()
                ax.fill_between(low.index, sign * low, sign * high, color=colour, alpha=0.25, lw=0)
            mean = group.mean()
            ax.plot(mean.index, sign * mean, color=colour, marker="o" if kind == "feature" else None, ms=3, label=label)
    ax.axhline(0, color="black", lw=0.8)
    ax.axvline(1, color="black", lw=0.8, ls=":")
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    ax.set(xlabel="alpha (1 is no change)", ylabel="genes down | genes up", title=f"steered alone in {where} cells")
    ax.legend(fontsize=7)
