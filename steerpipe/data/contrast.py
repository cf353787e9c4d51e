"""The two groups of cells of a steering experiment, each split into cells that a fit sees and test cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..config import ContrastConfig, DatasetConfig
from ..errors import SteerError, unknown
from .labels import find_label
from .split import fit_and_test, require_test

MIN_CELLS = 10
MIN_FIT = 5
MIN_TEST = 3


@dataclass(frozen=True)
class Split:
    """Cell positions, int64, ascending: source and target cells for the fit, and those held out (the dataset's test cells)."""

    source_fit: np.ndarray
    source_held: np.ndarray
    target_fit: np.ndarray
    target_held: np.ndarray

    @property
    def source(self) -> np.ndarray:
        """Every source cell, fit cells first."""
        return np.concatenate([self.source_fit, self.source_held])

    @property
    def streamed(self) -> np.ndarray:
        """The cells whose streams are kept: both sides of the fit, which a null deals anew, then held-out source cells."""
        return np.concatenate([self.source_fit, self.target_fit, self.source_held])

    @property
    def target(self) -> np.ndarray:
        """Every target cell, fit cells first."""
        return np.concatenate([self.target_fit, self.target_held])


def split_contrast(
    obs: pd.DataFrame,
    contrast: ContrastConfig,
    dataset: DatasetConfig,
    *,
    max_cells: int | None = None,
    scored: bool = False,
) -> Split:
    """Find the source and target cells among those that fits may see and among the dataset's test cells.

    Every random choice is made for fit cells and test cells apart, so that test cells never decide which fit cells are taken.

    Parameters
    ----------
    max_cells : keep so many cells of each side at the most, drawn with the contrast's seed, test cells as often as in the
        dataset
    scored : refuse a side with fewer than MIN_TEST test cells

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
    wanted = {"source": group_labels(contrast.source, dataset, labels)}
    if not contrast.halves:
        wanted["target"] = group_labels(contrast.target, dataset, labels)
        both = set(wanted["source"]) & set(wanted["target"])
        if both:
            raise SteerError(
                f"contrast.source and contrast.target share {sorted(both)}; they must be different cells. "
                "For halves of the same cells: contrast.halves=true contrast.target=null."
            )
    parts = fit_and_test(obs, dataset)  # (fit, test)
    sides = {name: [part[labels.iloc[part].isin(some)] for part in parts] for name, some in wanted.items()}
    if contrast.halves:
        whole = sides["source"]
        dealt = [_deal(cells, contrast.seed, part) for part, cells in enumerate(whole)]
        sides = {name: [halves[i] for halves in dealt] for i, name in enumerate(("source", "target"))}
    for name, (fit, test) in sides.items():
        chosen = f"contrast.{name}={wanted.get(name, wanted['source'])}" + (", one half," if contrast.halves else "")
        _check(chosen, len(fit), len(test), labels, scored)
    if max_cells is not None:
        most, share = max(MIN_CELLS, max_cells), len(parts[1]) / len(obs)
        sides = {name: capped(fit, test, most, share, contrast.seed) for name, (fit, test) in sides.items()}
    return Split(*sides["source"], *sides["target"])


def side_names(source: object, target: object, *, halves: bool = False) -> tuple[str, str]:
    """Return how texts name the two sides of a contrast."""
    first, second = (" + ".join(map(str, x)) if isinstance(x, list | tuple) else str(x) for x in (source, target))
    return (f"{first}, half", "other half") if halves else (first, second)


def group_labels(choice: str | list[str], dataset: DatasetConfig, labels: pd.Series) -> list[str]:
    """Return the labels that a choice of cells means: a name in dataset.groups, one label, or a list of labels.

    Parameters
    ----------
    labels : of every cell, as text

    Raises
    ------
    SteerError
        No such label.
    """
    wanted = dataset.groups.get(choice, [choice]) if isinstance(choice, str) else choice
    there, what = labels.unique(), f"label in '{labels.name}'"
    return [find_label(label, there, what=what, also=dataset.groups) for label in wanted]


def _check(chosen: str, n_fit: int, n_test: int, labels: pd.Series, scored: bool) -> None:
    if n_fit + n_test < MIN_CELLS:
        counts = ", ".join(f"{label} ({n})" for label, n in labels.value_counts().items())
        raise SteerError(f"{chosen} has {n_fit + n_test} cells; at least {MIN_CELLS} are needed. There are: {counts}.")
    if n_fit < MIN_FIT:
        raise SteerError(f"{chosen} has {n_fit} cells to fit on; at least {MIN_FIT} are needed: lower dataset.test_share.")
    if scored:
        require_test(n_test, chosen)
        if n_test < MIN_TEST:
            raise SteerError(f"{chosen} has {n_test} test cells; scores need {MIN_TEST} or more: raise dataset.test_share.")


def _deal(cells: np.ndarray, seed: int, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Deal cells at random between two sides that differ by one cell at the most."""
    order = np.random.default_rng([seed, 52, part]).permutation(cells)
    return np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])


def capped(fit: np.ndarray, test: np.ndarray, n: int, share: float, seed: int) -> list[np.ndarray]:
    """Keep n cells at the most, of which a share are test cells."""
    if len(fit) + len(test) <= n:
        return [fit, test]
    sizes = n - round(share * n), round(share * n)
    orders = [np.random.default_rng([seed, 53, part]).permutation(cells) for part, cells in enumerate((fit, test))]
    return [np.sort(order[:size]) for order, size in zip(orders, sizes, strict=True)]
