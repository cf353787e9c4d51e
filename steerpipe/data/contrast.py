"""The two groups of cells of a steering experiment, split into cells that a fit sees and cells that it never does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..config import ContrastConfig, DatasetConfig
from ..errors import SteerError, unknown

MIN_CELLS = 10


@dataclass(frozen=True)
class Split:
    """Cell positions, int64, ascending: source and target cells for the fit, and those held out."""

    source_fit: np.ndarray
    source_held: np.ndarray
    target_fit: np.ndarray
    target_held: np.ndarray

    @property
    def source(self) -> np.ndarray:
        """Every source cell, fit cells first."""
        return np.concatenate([self.source_fit, self.source_held])

    @property
    def target(self) -> np.ndarray:
        """Every target cell, fit cells first."""
        return np.concatenate([self.target_fit, self.target_held])


def split_contrast(
    obs: pd.DataFrame, contrast: ContrastConfig, dataset: DatasetConfig, *, max_source: int | None = None
) -> Split:
    """Find the source and target cells and hold out a share of each, stratified by batch (else by label).

    Parameters
    ----------
    max_source : keep so many source cells at the most, drawn with the contrast's seed

    Raises
    ------
    SteerError
        No such column or label, too few cells, or a label on both sides.
    """
    column = contrast.column or dataset.label
    if column is None:
        raise SteerError("the contrast has no label column: set dataset.label or contrast.column.")
    if column not in obs:
        raise unknown("label column", column, obs.columns)
    labels = obs[column].astype(str)
    sides = {name: _labels(getattr(contrast, name), dataset, labels) for name in ("source", "target")}
    both = set(sides["source"]) & set(sides["target"])
    if both:
        raise SteerError(f"contrast.source and contrast.target share {sorted(both)}; they must be different cells.")
    strata = obs[dataset.batch].astype(str) if dataset.batch else labels
    rng = np.random.default_rng(contrast.seed)
    parts = []
    for name, wanted in sides.items():
        cells = np.flatnonzero(labels.isin(wanted))
        if len(cells) < MIN_CELLS:
            counts = ", ".join(f"{label} ({n})" for label, n in labels.value_counts().items())
            raise SteerError(
                f"contrast.{name}={wanted} has {len(cells)} cells; at least {MIN_CELLS} are needed. There are: {counts}."
            )
        if name == "source" and max_source is not None and len(cells) > max_source:
            cells = np.sort(rng.choice(cells, max(MIN_CELLS, max_source), replace=False))
        parts += _hold_out(cells, strata.to_numpy()[cells], contrast.held_out, rng)
    return Split(*parts)


def _labels(choice: object, dataset: DatasetConfig, labels: pd.Series) -> list[str]:
    """A name in dataset.groups, one label, or a list of labels -> the labels."""
    wanted = dataset.groups.get(choice, [choice]) if isinstance(choice, str) else [str(c) for c in choice]  # type: ignore[attr-defined]
    there = labels.unique()
    for label in wanted:
        if label not in there:
            raise unknown(f"label in '{labels.name}'", label, [*dataset.groups, *sorted(there)])
    return list(wanted)


def _hold_out(cells: np.ndarray, strata: np.ndarray, share: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return (fit, held out): within every stratum the same share is held out, at least one cell of each over all."""
    held: list[int] = []
    for stratum in np.unique(strata):
        members = rng.permutation(cells[strata == stratum])
        held += members[: round(share * len(members))].tolist()
    held = held or [int(rng.choice(cells))]
    return [np.setdiff1d(cells, held), np.sort(np.array(held, dtype=np.int64))]
