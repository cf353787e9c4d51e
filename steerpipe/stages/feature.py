"""`steer feature ID`: one feature as a card: genes, terms, cell types, and what steering it alone does, beside nulls."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.panel import Panel

from ..activations.extract import full_streams
from ..errors import SteerError
from ..interpret.dose import Dose, dose_response, matched_features, symmetry
from ..plot import card as figures
from ..steering.intervene import CachedCells
from ..steering.pooled import pooled_codes
from .activity import ALL
from .annotate import Annotated, Inputs, annotation, caption, inputs
from .common import Context
from .extract import layer_index, load_cells, load_steered_model

log = logging.getLogger(__name__)
TOP = 15
MIN_CELLS = 2  # for a paired test


@dataclass(frozen=True)
class Steered:
    """The dose response of a feature: the cells' type, its mean |code| in them, the doses and their symmetry."""

    cell_type: str
    n_cells: int
    mean_abs_code: float
    dose: Dose
    symmetry: pd.DataFrame


def main(context: Context) -> None:
    """Show a feature, and write its card to the run folder."""
    number = context.config.feature.id
    if number is None:
        raise SteerError("feature.id is needed: steer feature 17; find one with: steer features --find cytotoxic")
    found = annotation(context)
    if not 0 <= number < len(found.features):
        raise SteerError(f"feature {number} does not exist: the SAE has features 0 to {len(found.features) - 1}.")
    given = inputs(context)
    row = found.features.iloc[number]
    genes = _genes(found, given, number)
    terms = found.enrichment[found.enrichment["feature"] == number].head(TOP)
    types = found.types[found.types["feature"] == number].sort_values("mean", ascending=False)
    steered = _steer(context, given, found, number) if row["pr"] > 0 else None
    run = context.run
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
    figure = figures.card(row, genes, terms, types, dose, where, context.config.annotate.q, caption(context, found))
    run.figure(f"feature_{number}", figure, genes if dose is None else dose)
    Console(soft_wrap=False).print(Panel(_text(row, genes, terms, types, steered), title=f"feature {number}", expand=False))


def _genes(found: Annotated, given: Inputs, number: int) -> pd.DataFrame:
    """The gene set, strongest first: gene, mean |code| at it, and the gene's mean count."""
    where = found.activity
    M = np.asarray(where.sums[:, number].sum(0) / np.maximum(where.tokens.sum(0), 1))
    names = [gene for gene in found.features.at[number, "genes"].split(", ") if gene]
    at = {gene: i for i, gene in enumerate(given.source.genes)}
    columns = [at[gene] for gene in names]
    return pd.DataFrame(
        {"gene": names, "mean_abs_code": M[columns], "mean_count": given.expression["mean"].to_numpy()[columns]}
    )


def _steer(context: Context, given: Inputs, found: Annotated, number: int) -> Steered | None:
    """Steer the feature in cells of the type where it fires most; None for a model without an output head."""
    config = context.config
    model = load_steered_model(config)
    if not model.has_head:
        log.info("this checkpoint has no output head: no dose response")
        return None
    rng = np.random.default_rng([config.feature.seed, 31])
    kind, members = _strongest_type(found, given, number, config.dataset.label)
    if len(members) < MIN_CELLS:
        log.info("no cell type has %d cells: no dose response", MIN_CELLS)
        return None
    cells = np.sort(rng.choice(members, min(config.feature.cells, len(members)), replace=False))
    layer, batch = layer_index(config), config.model.batch_size
    counts = load_cells(config, model.genes)
    device = next(model.parameters()).device
    streams = [out[layer].float().cpu() for out in full_streams(model, counts[cells], [layer], batch_size=batch)]
    valid = torch.from_numpy(counts.valid).to(device)
    cached = CachedCells(model, layer, torch.cat(streams).numpy(), valid)
    sae = given.dictionary.sae.to(device)
    activity = pooled_codes(cached, sae, np.arange(len(cached)), batch_size=batch)[1].mean(0)
    dose = dose_response(
        cached,
        sae,
        number,
        config.feature.alphas,
        nulls=matched_features(activity, number, config.feature.n_random, rng),
        directions=config.feature.n_random,
        min_change=config.feature.min_change,
        rng=rng,
        batch_size=batch,
    )
    library = given.library(given.sets).sets
    mirrored = symmetry(dose, library, np.flatnonzero(given.expressed), config.annotate.q)
    return Steered(kind, len(cells), float(activity[number]), dose, mirrored)


def _strongest_type(found: Annotated, given: Inputs, number: int, label: str | None) -> tuple[str, np.ndarray]:
    """Return the cell type in which a feature fires most, and its test cells; types of one cannot be tested, and are left.

    Where the dataset has no test cells they are the cells on which the type was found.
    """
    cells = given.source.test if len(given.source.test) else given.source.fit
    for i in np.argsort(-found.activity.type_mean[:, number], kind="stable"):
        kind, members = found.activity.types[i], cells
        if kind != ALL:
            assert label is not None
            members = cells[given.source.obs[label].astype(str).to_numpy()[cells] == kind]
        if len(members) >= MIN_CELLS:
            break
    return kind, members


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
