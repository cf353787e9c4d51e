"""One feature: its genes, and what steering it alone does in the cells where it fires most, beside nulls."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..interpret.dose import Dose, dose_response, matched_features, symmetry
from ..steering.contrast_streams import cache_cells
from ..steering.pooled import pooled_codes
from .activations import layer_index, load_cells, load_steered_model
from .annotation import Annotated, Inputs
from .context import Context
from .feature_activity import ALL

log = logging.getLogger(__name__)
MIN_CELLS = 2  # for a paired test


@dataclass(frozen=True)
class Steered:
    """The dose response of a feature: the cells' type, its mean |code| in them, the doses and their symmetry."""

    cell_type: str
    n_cells: int
    mean_abs_code: float
    dose: Dose
    symmetry: pd.DataFrame


def genes_of(found: Annotated, given: Inputs, number: int) -> pd.DataFrame:
    """Return the gene set, strongest first: gene, mean |code| at it, and the gene's mean count."""
    where = found.activity
    M = np.asarray(where.sums[:, number].sum(0) / np.maximum(where.tokens.sum(0), 1))
    names = [gene for gene in found.features.at[number, "genes"].split(", ") if gene]
    at = {gene: i for i, gene in enumerate(given.source.genes)}
    columns = [at[gene] for gene in names]
    return pd.DataFrame(
        {"gene": names, "mean_abs_code": M[columns], "mean_count": given.expression["mean"].to_numpy()[columns]}
    )


def steer(context: Context, given: Inputs, found: Annotated, number: int) -> Steered | None:
    """Return the dose response of the feature in the type where it fires most; None for a model without an output head."""
    config = context.config
    model = load_steered_model(config)
    if model.predicts is None:
        log.info("this checkpoint has no expression head: no dose response")
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
    valid = torch.from_numpy(counts.valid).to(device)
    cached = cache_cells(model, counts[cells], layer, valid, batch_size=batch)
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
