"""Figures of transfer between groups of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .style import COLOURS, note, styled, subplots


@styled
def matrix(scores: pd.DataFrame, caption: str) -> Figure:
    """Draw the median change of distance of each scored type (columns) under each recipe (rows).

    Parameters
    ----------
    scores : columns score_on, fit_on, relation, objective, kind, space, closer, change
    """
    some = scores[scores["kind"] == "recipe"]
    spaces = {"layer": "latent space", "de_up": "DE genes up", "de_down": "DE genes down"}
    spaces = {name: title for name, title in spaces.items() if name in set(some["space"])}
    objectives = list(dict.fromkeys(some["objective"]))
    columns = list(dict.fromkeys(some["score_on"]))
    order = [*columns, *(name for name in dict.fromkeys(some["fit_on"]) if name not in columns)]
    side = 0.75 * len(columns)
    figure, axes = subplots(
        len(objectives), len(spaces), width=2.2 + (side + 0.6) * len(spaces), height=1 + (side + 1) * len(objectives)
    )
    for i, objective in enumerate(objectives):
        for j, (space, title) in enumerate(spaces.items()):
            ax = axes[i * len(spaces) + j]
            here = some[(some["objective"] == objective) & (some["space"] == space)]
            table = here.pivot_table(index="fit_on", columns="score_on", values="change").loc[order, columns]
            share = here.pivot_table(index="fit_on", columns="score_on", values="closer").loc[order, columns]
            image = ax.imshow(100 * table, cmap="RdBu_r", vmin=-60, vmax=60, aspect="auto")
            for (row, column), value in np.ndenumerate(100 * table.to_numpy()):
                text = f"{value:+.0f}%\n{share.to_numpy()[row, column]:.0%} closer"
                ax.text(
                    column, row, text, ha="center", va="center", fontsize=6.5, color="white" if abs(value) > 40 else "black"
                )
            ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
            ax.set_yticks(range(len(order)), order if j == 0 else [""] * len(order))
            ax.axhline(len(columns) - 0.5, color="black", lw=1.2)
            ax.set_title(f"{objective}: {title}", loc="left")
            if j == 0:
                ax.set_ylabel("fitted on")
            if i == len(objectives) - 1:
                ax.set_xlabel("scored on held-out cells of")
    figure.colorbar(image, ax=axes, label="median change of distance to the type's own target [%]", shrink=0.7)
    note(figure, caption)
    return figure


@styled
def markers(table: pd.DataFrame, caption: str) -> Figure:
    """Draw the share of the gap that each marker's mean closes, fitted on the type itself and on the others.

    Parameters
    ----------
    table : columns score_on, gene, objective, relation, gap_fraction
    """
    some = table[table["relation"].isin(["own", "transferred"])]
    genes, types = list(dict.fromkeys(some["gene"])), list(dict.fromkeys(some["score_on"]))
    columns = min(2, len(types))
    rows = -(-len(types) // columns)
    figure, axes = subplots(rows, columns, width=max(7.2, 0.8 * len(genes) * columns), height=2.6 * rows + 0.4, sharey=True)
    marks = {"own": "o", "transferred": "D"}
    for ax, name in zip(axes, types, strict=False):
        for k, (objective, relation) in enumerate((o, r) for o in dict.fromkeys(some["objective"]) for r in marks):
            here = some[(some["score_on"] == name) & (some["objective"] == objective) & (some["relation"] == relation)]
            values = here.set_index("gene")["gap_fraction"].reindex(genes)
            edge = COLOURS[objective]
            face = edge if relation == "own" else "white"
            label = f"{objective}, fitted on " + ("the type itself" if relation == "own" else "the other types")
            at = np.arange(len(genes)) + 0.18 * (k - 1.5)
            ax.scatter(at, 100 * values, s=24, marker=marks[relation], facecolor=face, edgecolor=edge, label=label)
        ax.axhline(0, color="black", lw=0.8)
        ax.axhline(100, color="black", lw=0.8, ls="--")
        ax.set_xticks(range(len(genes)), genes, rotation=45, ha="right")
        ax.set_title(f"held-out {name}", loc="left")
    for ax in axes[len(types) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel("gap closed [%]")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    note(figure, caption)
    return figure
