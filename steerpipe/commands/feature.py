"""`steer feature ID`: one feature as a card: genes, terms, cell types, and what steering it alone does, beside nulls."""

from __future__ import annotations

import json

import pandas as pd
from rich.console import Console
from rich.panel import Panel

from ..errors import SteerError
from ..pipeline.annotation import inputs
from ..pipeline.feature_card import Steered, genes_of, steer
from ..pipeline.pipeline import Pipeline
from ..plot import card as figures
from ..plot.provenance import annotation_caption
from ..run import Run

TOP = 15
"""Genes and terms that are shown."""


def main(pipeline: Pipeline, run: Run) -> None:
    """Show a feature, and write its card to the run folder."""
    number = pipeline.config.feature.id
    if number is None:
        raise SteerError("feature.id is needed: steer feature 17; find one with: steer features --find cytotoxic")
    found = pipeline.annotation()
    if not 0 <= number < len(found.features):
        raise SteerError(f"feature {number} does not exist: the SAE has features 0 to {len(found.features) - 1}.")
    given = inputs(pipeline)
    row = found.features.iloc[number]
    genes = genes_of(found, given, number)
    terms = found.enrichment[found.enrichment["feature"] == number].head(TOP)
    types = found.types[found.types["feature"] == number].sort_values("mean", ascending=False)
    steered = steer(pipeline, given, found, number) if row["pr"] > 0 else None
    run.table("genes", genes)
    run.table("terms", terms)
    run.table("cell_types", types)
    record = {name: None if pd.isna(value) else value for name, value in row.items()}
    if steered is not None:
        run.table("dose", steered.dose.table)
        run.table("symmetry", steered.symmetry)
        record |= {"steered_in": steered.cell_type, "cells": steered.n_cells, "mean_abs_code": steered.mean_abs_code}
        record["dose"] = steered.dose.table[steered.dose.table["kind"] == "feature"].to_dict("records")
        record["symmetry"] = steered.symmetry.to_dict("records")
    (run.path / "card.json").write_text(json.dumps(record, indent=1, default=lambda value: value.item()))
    run.metrics({f"feature/{name}": value for name, value in record.items() if isinstance(value, int | float | str)})
    dose = None if steered is None else steered.dose.table
    where = "" if steered is None else f"{steered.n_cells} {steered.cell_type}"
    figure = figures.card(
        row,
        genes,
        terms,
        types,
        dose,
        where,
        pipeline.config.annotate.q,
        annotation_caption(pipeline.config, found.scores["sets"], found.scores["background"]),
    )
    run.figure(f"feature_{number}", figure, genes if dose is None else dose)
    Console(soft_wrap=False).print(Panel(_text(row, genes, terms, types, steered), title=f"feature {number}", expand=False))


def _text(row: pd.Series, genes: pd.DataFrame, terms: pd.DataFrame, types: pd.DataFrame, steered: Steered | None) -> str:
    """The card as the terminal shows it."""
    lines = [
        f"label        {row['label'] or 'none'}"
        + (f"   q {row['label_q']:.2g}, IC {row['label_ic']:.2f}" if row["label"] else ""),
        f"genes        {', '.join(genes['gene'].head(TOP)) or 'none: it never fires here'}",
        f"activity     on {row['density']:.2%} of tokens; participation ratio {row['pr']:.1f}; "
        f"{row['expressed']:.0%} of |code| where the gene is expressed",
    ]
    if "stability" in row:
        lines.append(f"stability    {row['stability']:.0%} of the other seeds of the dictionary have it")
    if row["half_label"]:
        lines.append(
            f"other half   '{row['half_label']}', chosen on half of the cells, has q {row['half_q']:.2g} on the other half"
        )
    if row["module"] >= 0:
        lines.append(f"module       {row['module']} of the feature graph")
    if len(types):
        shown = types.head(5)
        lines.append("cell types   " + ", ".join(f"{t.type} {t.mean:.3g}" for t in shown.itertuples()) + "  (mean |code|)")
    lines += [f"term         {t.term}   q {t.q:.2g}, {t.overlap} of {t.set_genes} genes" for t in terms.head(5).itertuples()]
    if steered is None:
        return "\n".join(lines)
    table = steered.dose.table
    lines.append(f"steered      alone, in {steered.n_cells} {steered.cell_type} cells: genes up / down")
    for kind, group in table.groupby("kind", sort=False):
        mean = group.groupby("alpha")[["up", "down"]].mean()
        cells = "  ".join(f"{alpha:+g}: {r.up:.0f}/{r.down:.0f}" for alpha, r in mean.iterrows())
        lines.append(f"  {kind:<17}{cells}")
    for r in steered.symmetry.tail(2).itertuples():
        lines.append(
            f"mirror       {r.direction} at {r.alpha:+g} against the opposite at {r.mirror:+g}: "
            f"genes overlap {r.gene_overlap:.2f}, terms {r.set_overlap:.2f}"
        )
    return "\n".join(lines)
