"""Figures of transfer between groups of cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...evaluate.inference import LEVEL
from ...plot.style import COLOURS, note, styled, subplots


@styled
def matrix(scores: pd.DataFrame, caption: str) -> Figure:
    """Draw the change of E-distance of each scored type (columns) under each recipe (rows); grey where its null does as well.

    Parameters
    ----------
    scores : columns score_on, fit_on, objective, kind, space, score, value, p
    """
    every = scores[scores["kind"] == "recipe"]
    some = every[every["score"].isin(["edistance", "gap"])]
    spaces = {"layer": "steered layer", "expression": "predicted expression"}
    spaces = {name: title for name, title in spaces.items() if name in set(some["space"])}
    objectives = list(dict.fromkeys(some["objective"]))
    columns = list(dict.fromkeys(some["score_on"]))
    order = [*columns, *(name for name in dict.fromkeys(some["fit_on"]) if name not in columns)]
    side = 0.95 * len(columns)
    figure, axes = subplots(
        len(objectives), len(spaces), width=2.4 + (side + 0.6) * len(spaces), height=1 + (side + 1) * len(objectives)
    )
    for i, objective in enumerate(objectives):
        for j, (space, title) in enumerate(spaces.items()):
            ax = axes[i * len(spaces) + j]
            here = some[(some["objective"] == objective) & (some["space"] == space)]
            wide = {
                (name, column): part.pivot_table(index="fit_on", columns="score_on", values=column, dropna=False)
                .reindex(index=order, columns=columns)
                .to_numpy()
                for name, part in here.groupby("score")
                for column in ("value", "p")
            }
            distance = 100 * wide["edistance", "value"]
            # a colour would say something of a score that its null reaches as well, and hide the grey text
            image = ax.imshow(
                np.where(wide["edistance", "p"] > LEVEL, np.nan, distance), cmap="RdBu_r", vmin=-100, vmax=100, aspect="auto"
            )
            for (row, column), value in np.ndenumerate(distance):
                within = wide["edistance", "p"][row, column] > LEVEL
                dark = "#777777" if within else "white" if abs(value) > 60 else "black"
                text = f"{value:+.0f}%\ngap {wide['gap', 'value'][row, column]:.2f}"
                ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color=dark)
            ax.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
            ax.set_yticks(range(len(order)), order if j == 0 else [""] * len(order))
            ax.axhline(len(columns) - 0.5, color="black", lw=1.2)
            ax.set_title(f"{objective}: {title}", loc="left")
            if j == 0:
                ax.set_ylabel("fitted on")
            if i == len(objectives) - 1:
                ax.set_xlabel("scored on held-out cells of")
    figure.colorbar(image, ax=axes, label="change of E-distance to the type's own target [%]", shrink=0.7)
    note(figure, f"{caption} · grey: within the permutation null (drawn for the diagonal and for all others)")
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
