"""Predictions without a model: no change, the mean perturbation, sums of singles, ridge and neighbours on gene features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeCV

from ...config.adapter import AdapterConfig
from .targets import Target

NOTHING, MEAN, ADDITIVE, RIDGE, NEIGHBOURS = "no change", "perturbation mean", "additive", "ridge", "kNN"
STRENGTHS = np.logspace(-3, 3, 13)


def baselines(
    targets: Sequence[Target],
    training: list[int],
    scored: list[int],
    known: np.ndarray,
    inputs: np.ndarray,
    settings: AdapterConfig,
) -> dict[str, np.ndarray]:
    """Return predicted changes, {name: (len(scored), G)}; NaN where a baseline says nothing.

    Parameters
    ----------
    known : (T, G), changes in the cells that training may see
    inputs : (T, P), what the adapters see of each target
    """
    mean = known[training].mean(0)
    found = {NOTHING: np.zeros((len(scored), known.shape[1])), MEAN: np.repeat(mean[None], len(scored), 0)}
    singles = {targets[i].genes[0]: i for i in training if len(targets[i].genes) == 1}
    sums = np.full((len(scored), known.shape[1]), np.nan)
    for row, i in enumerate(scored):
        genes = targets[i].genes
        if len(genes) > 1 and all(gene in singles for gene in genes):
            sums[row] = sum(known[singles[gene]] for gene in genes)
    if np.isfinite(sums).any():
        found[ADDITIVE] = sums
    if inputs.shape[1]:
        # leave-one-out over the training targets chooses the strength
        ridge = RidgeCV(alphas=STRENGTHS, alpha_per_target=False).fit(inputs[training], known[training])
        found[RIDGE] = ridge.predict(inputs[scored])
        distances = np.linalg.norm(inputs[scored][:, None] - inputs[training][None], axis=2)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, : settings.neighbours]
        found[NEIGHBOURS] = known[np.array(training)[nearest]].mean(1)
    return found
