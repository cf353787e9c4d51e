"""Which features a fit may change."""

from __future__ import annotations

import numpy as np

from ..errors import SteerError
from .artefact import Artefact
from .experiment import Experiment
from .recurrence import STABLE


def learnable_features(experiment: Experiment, choice: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Return bool (F,): all features, those active in a source cell, or those of them that are annotated, or stable.

    Parameters
    ----------
    rows : the source cells; default those of the fit

    Raises
    ------
    SteerError
        None is left.
    """
    if choice == "all":
        return np.ones(experiment.sae.n_features, bool)
    mask = experiment.active if rows is None else np.asarray((experiment.activity[rows] > 0).any(axis=0))
    if choice == "annotated":
        mask = mask & experiment.annotation.mask()
        if not mask.any():
            msg = "no active feature has a term at q < annotate.q; use objective.learnable=active, or another annotate.library."
            raise SteerError(msg)
    if choice == "stable":
        mask = mask & (experiment.stability[1]["stability"].to_numpy() >= STABLE)
        if not mask.any():
            msg = (
                f"no active feature is in {STABLE:.0%} of the other seeds; use objective.learnable=active, or a smaller sae.k."
            )
            raise SteerError(msg)
    return mask


def learnable_parents(experiment: Experiment, choice: str) -> list[Artefact]:
    """Return the artefacts that the choice depends on: the annotation, or the other seeds, where it is asked for."""
    if choice == "annotated":
        return [experiment.annotation.artefact]
    return [experiment.stability[0]] if choice == "stable" else []
