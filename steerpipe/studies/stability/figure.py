"""Figures of the seeds: how alike matched features are, and in how many seeds each one is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...plot.dictionaries import PALETTE
from ...plot.style import note, styled, subplots


@styled
def seed_matches(pairs: pd.DataFrame, threshold: float, caption: str) -> Figure:
    """Draw how alike matched features of two trainings are, beside matched random dictionaries.

    Parameters
    ----------
    pairs : columns kind (seeds or random), similarity (cosine of a matched pair of decoder rows)
    """
    figure, (ax,) = subplots(1, 1, width=4.8, height=3)
    bins = np.linspace(min(0.0, pairs["similarity"].min()), 1, 50).tolist()
    for kind, colour, label in (("random", "#bdbdbd", "random dictionaries"), ("seeds", PALETTE[0], "two seeds")):
        mine = pairs.loc[pairs["kind"] == kind, "similarity"]
        ax.hist(mine, bins=bins, weights=np.full(len(mine), 100 / max(1, len(mine))), color=colour, alpha=0.75, label=label)
    ax.axvline(threshold, color="black", lw=0.8, ls="--", label=f"threshold {threshold:g}")
    ax.set_xlabel("cosine of matched decoder rows")
    ax.set_ylabel("pairs [%]")
    ax.legend()
    note(figure, caption)
    return figure


@styled
def feature_stability(features: pd.DataFrame, caption: str) -> Figure:
    """Draw how many features, and how much of the energy, are found by which share of the other seeds.

    Parameters
    ----------
    features : columns stability (share of the other seeds that have it), energy (mean of z^2 |W_dec|^2), fires
    """
    alive = features[features["fires"]]
    levels = np.sort(alive["stability"].round(3).unique())
    at, of = np.arange(len(levels)), alive["stability"].round(3)
    share = [100 * float((of == level).mean()) for level in levels]
    energy = [100 * float(alive.loc[of == level, "energy"].sum() / alive["energy"].sum()) for level in levels]
    figure, (ax,) = subplots(1, 1, width=4.8, height=3)
    for offset, values, colour, label in ((-0.2, share, "#bdbdbd", "features that fire"), (0.2, energy, PALETTE[0], "energy")):
        bars = ax.bar(at + offset, values, width=0.4, color=colour, label=label)
        ax.bar_label(bars, [f"{value:.0f}" for value in values], fontsize=7.5, padding=1)
    ax.set_xticks(at, [f"{100 * level:.0f} %" for level in levels])
    ax.set_xlabel("share of the other seeds that have the feature")
    ax.set_ylabel("of all [%]")
    ax.set_ylim(0, 1.12 * max([*share, *energy]))
    ax.legend()
    note(figure, caption)
    return figure
