"""Perturbations by their names in obs: which genes they hit, and how many cells there are of each."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..config import DatasetConfig
from ..errors import SteerError, unknown
from .labels import find_label


def perturbation_labels(obs: pd.DataFrame, dataset: DatasetConfig) -> pd.Series:
    """Return each cell's perturbation as text.

    Raises
    ------
    SteerError
        No column is configured, or obs lacks it.
    """
    if dataset.perturbation is None:
        raise SteerError(
            "no perturbations: say in dataset.perturbation which obs column has them, and in dataset.control who has none."
        )
    if dataset.perturbation not in obs:
        raise unknown("column dataset.perturbation", dataset.perturbation, obs.columns)
    return obs[dataset.perturbation].astype(str)


def control_label(obs: pd.DataFrame, dataset: DatasetConfig) -> str:
    """Return the label of unperturbed cells, as obs has it.

    Raises
    ------
    SteerError
        None is configured, or no cell has it.
    """
    labels = perturbation_labels(obs, dataset)
    if dataset.control is None:
        raise SteerError(f"dataset.control must name the cells without a perturbation in '{dataset.perturbation}'.")
    return find_label(dataset.control, labels.unique(), what=f"dataset.control in '{dataset.perturbation}'")


def perturbed_genes(name: str) -> tuple[str, ...]:
    """Return the genes of a perturbation: of `A+B` two, in their order, and of `A_B` where neither is one symbol with `_`.

    A part that says control (ctrl, control, non-targeting, NT) is none.
    """
    parts = name.split("+") if "+" in name else name.split("_")
    return tuple(part.strip() for part in parts if part.strip().lower() not in NOBODY)


NOBODY = ("", "ctrl", "control", "non-targeting", "nt")
"""Partners of a single perturbation that are no gene."""


def perturbations(obs: pd.DataFrame, dataset: DatasetConfig, test: np.ndarray) -> pd.DataFrame:
    """Return a row a perturbation, the control first: name, genes (tuple), cells, fit, test, held (no cell to fit on).

    Parameters
    ----------
    test : bool (N,), of split.test_cells
    """
    labels, control = perturbation_labels(obs, dataset), control_label(obs, dataset)
    counts = pd.DataFrame({"name": labels.to_numpy(), "test": test}).groupby("name")["test"].agg(cells="size", test="sum")
    counts = counts.astype(np.int64).assign(fit=counts["cells"] - counts["test"])
    table = counts.reset_index().sort_values("name", key=lambda names: names != control, kind="stable", ignore_index=True)
    table["genes"] = [() if name == control else perturbed_genes(name) for name in table["name"]]
    return table.assign(held=(table["fit"] == 0))[["name", "genes", "cells", "fit", "test", "held"]]
