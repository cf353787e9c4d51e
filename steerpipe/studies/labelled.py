"""The cells of a dataset's labels, for studies that take many of them: which labels, which cells to fit and to score on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pandas as pd

from ..config import Config
from ..data.contrast import Split, capped
from ..data.labels import find_label
from ..data.split import fit_and_test
from ..errors import SteerError, unknown

log = logging.getLogger(__name__)
MIN_HELD = 4
UNLABELLED = ("nan", "", "none")


def require_label(config: Config, study: str) -> None:
    """Refuse, before anything is computed, a dataset without labels.

    Raises
    ------
    SteerError
        How they are given.
    """
    if config.dataset.label is None:
        raise SteerError(f"{study} compares labels: set dataset.label to an obs column.")


def require_perturbations(config: Config, study: str) -> None:
    """Refuse, before anything is computed, a dataset without perturbations.

    Raises
    ------
    SteerError
        How they are given.
    """
    if config.dataset.perturbation is None or config.dataset.control is None:
        raise SteerError(
            f"{study} needs perturbations: take dataset=papalexi, norman or kang_ifnb, or name them by "
            "dataset.perturbation=COLUMN dataset.control=LABEL."
        )


def label_counts(labels: pd.Series) -> pd.Series:
    """Return the cells of each label, most first and then by name, without what stands for none."""
    counts = labels.astype(str).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return counts[[name.lower() not in UNLABELLED for name in counts.index]]


def chosen_labels(config: Config, obs: pd.DataFrame, study: str) -> list[str]:
    """Return the labels that a study takes (its group's `labels`, `max_labels`, `min_cells`), those with most cells first.

    Raises
    ------
    SteerError
        No such column or label, or fewer than two labels with enough cells.
    """
    settings, column = getattr(config, study), config.dataset.label
    if column not in obs:
        raise unknown("label column", column, obs.columns)
    counts = label_counts(obs[column])
    named = [find_label(name, counts.index, what=f"label in {study}.labels") for name in settings.labels]
    _, test = fit_and_test(obs, config.dataset)
    held = obs[column].astype(str).iloc[test].value_counts()
    enough = [name for name, n in counts.items() if n >= settings.min_cells and held.get(name, 0) >= MIN_HELD]
    labels = named or enough[: settings.max_labels]
    few = [name for name in labels if name not in enough]
    if few or len(labels) < 2:
        have = ", ".join(f"{name} ({n}, {held.get(name, 0)} held out)" for name, n in counts.head(12).items())
        raise SteerError(
            f"{study} needs two labels with {study}.min_cells={settings.min_cells} cells, {MIN_HELD} of them held "
            f"out{f'; {few[0]} has fewer' if few else ''}. There are: {have}."
        )
    if len(enough) > len(labels):
        log.info("%d of the %d labels with enough cells are targets: %s", len(labels), len(enough), ", ".join(labels))
    return labels


def labels_finder(config: Config, study: str) -> Callable[[pd.DataFrame], Split]:
    """Return what finds the cells of all chosen labels: fit cells as source, test cells as held out, no target side."""

    def find(obs: pd.DataFrame) -> Split:
        labels = obs[config.dataset.label].astype(str).to_numpy() if config.dataset.label in obs else np.array([])
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for name in chosen_labels(config, obs, study):
            fit, test = (cells[labels[cells] == name] for cells in fit_and_test(obs, config.dataset))
            share = len(test) / max(1, len(fit) + len(test))
            kept = capped(fit, test, getattr(config, study).max_cells, share, config.contrast.seed)
            for part, cells in zip(parts, kept, strict=True):
                part.append(cells)
        fit, held = (np.sort(np.concatenate(part)) for part in parts)
        none = np.zeros(0, np.int64)
        return Split(fit, held, none, none)

    return find
