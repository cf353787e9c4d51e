"""Which cells of a dataset are set apart as test cells: one split for every dictionary, annotation, fit and score."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..config import DatasetConfig
from ..errors import SteerError, unknown
from .labels import find_label, label_key
from .perturbations import perturbation_labels

MARKS = {"test": True, "train": False}
"""What an obs column that marks the test cells may hold beside true and false (1 and 0), in any case of letters."""


def test_cells(obs: pd.DataFrame, dataset: DatasetConfig) -> np.ndarray:
    """Return bool (N,): the cells that nothing is fitted on.

    With `dataset.test` an obs column says which they are. Else they are a systematic sample: the cells are sorted by label,
    donor and a random order, and every (1 / test_share)-th is taken, from a random start (Cochran, Sampling Techniques, 1977,
    chapter 8). So every label, and every donor within it, gives its share to within one cell, however few it has.

    Every cell of a perturbation in `dataset.held` is a test cell beside them.

    Parameters
    ----------
    obs : labels, one row a cell

    Raises
    ------
    SteerError
        No such column or perturbation, a mark that is neither true/false nor test/train, or no cell left to fit on.
    """
    test = np.zeros(len(obs), bool)
    if dataset.test is not None:
        test = _marked(obs, dataset.test)
    elif dataset.test_share > 0:
        rng = np.random.default_rng([dataset.split_seed, 51])
        keys = [rng.permutation(len(obs))]
        keys += [obs[name].astype(str).to_numpy() for name in (dataset.batch, dataset.label) if name in obs]
        order = np.lexsort([np.unique(key, return_inverse=True)[1] for key in keys])  # the last key sorts first
        steps = np.floor(np.arange(len(obs) + 1) * dataset.test_share + rng.random())
        test[order] = np.diff(steps) > 0
    if dataset.held:
        labels = perturbation_labels(obs, dataset)
        test |= labels.isin(
            [find_label(one, labels.unique(), what="perturbation in dataset.held") for one in dataset.held]
        ).to_numpy()
    if test.all():
        raise SteerError("every cell is a test cell, and none is left to fit on; see dataset.test and dataset.test_share.")
    return test


def fit_and_test(obs: pd.DataFrame, dataset: DatasetConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the cells that fits may see and of the test cells, int64, ascending."""
    test = test_cells(obs, dataset)
    return np.flatnonzero(~test), np.flatnonzero(test)


def require_test(n: int, what: str = "the dataset") -> None:
    """Refuse to score where there is no test cell.

    Raises
    ------
    SteerError
        n is 0.
    """
    if n == 0:
        msg = f"{what} has no test cells, so nothing can be scored: set dataset.test_share=0.3, or dataset.test to mark some."
        raise SteerError(msg)


def _marked(obs: pd.DataFrame, column: str) -> np.ndarray:
    if column not in obs:
        raise unknown("column dataset.test", column, obs.columns)
    marks = obs[column].astype(str)
    known = {mark: _mark(mark) for mark in marks.unique()}
    strange = sorted(mark for mark, test in known.items() if test is None)
    if strange:
        raise SteerError(
            f"dataset.test={column} holds '{strange[0]}'; allowed in that column: true and false, or test and train."
        )
    return np.asarray(marks.map(known), bool)


def _mark(text: str) -> bool | None:
    kind, value = label_key(text)
    said = kind == "truth" or (kind == "number" and value in (0, 1))
    return bool(value) if said else MARKS.get(text.lower())
