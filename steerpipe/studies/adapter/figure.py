"""Adapters beside the exact solver; predicted beside real changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...plot.style import COLOURS, GREY, note, styled, subplots
from .inverse import EXACT, SHUFFLED

SHADES = {"linear": "#5a9bd4", "mlp": "#9e6ebd", "lista": COLOURS["latent"]}


@styled
def inverse(rows: pd.DataFrame, caption: str) -> Figure:
    """Draw each network's objective above the optimum, and the gap that it closes beside the exact recipe's.

    Parameters
    ----------
    rows : a row a pair and arm: pair, arm, excess, gap, gap_q
    """
    figure, (left, right) = subplots(1, 2, width=9.5, height=4.2)
    networks = [name for name in dict.fromkeys(rows["arm"]) if name != EXACT and not name.startswith(SHUFFLED)]
    exact = rows[rows["arm"] == EXACT].set_index("pair")["gap"]
    rng = np.random.default_rng(0)
    for at, name in enumerate(networks):
        some = rows[rows["arm"] == name]
        excess = np.maximum(some["excess"].to_numpy(), 1e-8)
        left.plot(at + rng.uniform(-0.22, 0.22, len(some)), excess, "o", ms=3.5, alpha=0.6, color=SHADES[name])
        left.plot([at - 0.3, at + 0.3], [np.median(excess)] * 2, color="black", lw=1.4)
        beyond = some["gap_q"].to_numpy() <= 0.05
        x, y = exact[some["pair"]].to_numpy(), some["gap"].to_numpy()
        right.plot(x[~beyond], y[~beyond], "o", ms=3.5, alpha=0.6, color=GREY, label=None if at else "within the null")
        right.plot(x[beyond], y[beyond], "o", ms=3.5, alpha=0.7, color=SHADES[name], label=name)
    left.set_yscale("log")
    left.set_xticks(range(len(networks)), networks)
    left.set_ylabel("objective above the exact optimum")
    left.set_title("a  held-out labels", loc="left")
    ends = [min(0.0, exact.min()), max(1.0, exact.max())]
    right.plot(ends, ends, color=GREY, lw=0.8, ls=":")
    right.set_xlabel("share of the gap closed, exact recipe")
    right.set_ylabel("share of the gap closed, adapter")
    right.set_title("b  held-out cells", loc="left")
    if right.get_legend_handles_labels()[0]:
        right.legend(loc="upper left")
    note(figure, caption)
    return figure


@styled
def prediction(
    scores: pd.DataFrame,
    genes: pd.DataFrame,
    features: pd.DataFrame,
    shown: Sequence[str],
    colours: Mapping[str, str],
    caption: str,
) -> Figure:
    """Draw every arm's correlations, then the best and the worst prediction with the recipes that they come from.

    Parameters
    ----------
    scores : arm, perturbation, pearson_delta; arms in the order of drawing
    genes : perturbation, gene, predicted, real, of the network that is shown
    features : perturbation, feature, theta, label, largest |theta| first
    shown : one or two perturbations, best first
    """
    figure, axes = subplots(1, 3, width=13, height=4.6, width_ratios=[5, 4, 4])
    arms = list(dict.fromkeys(scores["arm"]))[::-1]
    rng = np.random.default_rng(0)
    for at, name in enumerate(arms):
        values = scores.loc[scores["arm"] == name, "pearson_delta"].dropna().to_numpy()
        if len(values):
            axes[0].plot(values, at + rng.uniform(-0.2, 0.2, len(values)), "o", ms=3, alpha=0.55, color=colours[name])
            axes[0].plot([np.median(values)] * 2, [at - 0.35, at + 0.35], color="black", lw=1.6)
    axes[0].set_ylim(-0.6, len(arms) - 0.4)  # an arm without correlations has its row all the same
    axes[0].axvline(0, color=GREY, lw=0.8, ls=":")
    axes[0].set_yticks(range(len(arms)), arms, fontsize=7)
    axes[0].set_xlabel("Pearson r of predicted and real change")
    axes[0].set_title("a  perturbations that were left out", loc="left")
    for letter, title, ax, name in zip("bc", ("best", "worst"), axes[1:], shown, strict=False):
        _one(ax, genes[genes["perturbation"] == name], features[features["perturbation"] == name])
        ax.set_title(f"{letter}  {title}: {name}", loc="left")
    for ax in axes[1 + len(shown) :]:
        ax.set_axis_off()
    note(figure, caption)
    return figure


def _one(ax: Axes, genes: pd.DataFrame, features: pd.DataFrame) -> None:
    ax.axhline(0, color=GREY, lw=0.6)
    ax.axvline(0, color=GREY, lw=0.6)
    ax.plot(genes["real"], genes["predicted"], "o", ms=3, alpha=0.5, color=COLOURS["latent"])
    top = genes.reindex(genes["real"].abs().sort_values(ascending=False).index).head(4)
    for row in top.itertuples():
        ax.annotate(row.gene, (row.real, row.predicted), fontsize=6.5, xytext=(3, 3), textcoords="offset points")
    ax.set_xlabel("real change, log1p CP10K")
    ax.set_ylabel("predicted change")
    features = features.fillna({"label": ""})
    named = [f"{row.theta:+.2f}  {row.label or f'feature {row.feature}'}"[:46]
             for row in features.head(4).itertuples()]  # fmt: skip
    ax.text(0.02, 0.98, "\n".join(named) or "no feature", transform=ax.transAxes, va="top", fontsize=6.5, color="#444444")
