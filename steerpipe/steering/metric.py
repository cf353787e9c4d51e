"""Metrics (D, D) of the latent objective: a vector v is as long as v M."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf

from ..errors import SteerError


def whitening(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the metric in which the cells of a side scatter alike in every direction.

    The symmetric inverse square root of the pooled within-side covariance, shrunk after Ledoit and Wolf (2004), so that a
    direction weighs by how well it tells the sides apart. Scaled to a mean-square gain of 1, trace(M M) = D, which keeps
    losses of the order that they have without it.

    Parameters
    ----------
    source, target : (N, D) and (M, D) embeddings of the two sides

    Returns
    -------
    ndarray
        float64 (D, D), symmetric and positive definite

    Raises
    ------
    SteerError
        where no cell differs from its side's mean
    """
    residuals = np.concatenate([np.asarray(side, np.float64) - side.mean(0, dtype=np.float64) for side in (source, target)])
    if not residuals.any():
        raise SteerError("metric=whitened needs cells that differ from their side's mean: give it more, or metric=euclidean.")
    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    metric = (vectors / np.sqrt(values)) @ vectors.T
    return np.asarray(metric * np.sqrt(len(metric) / np.square(metric).sum()))


def orthogonal_penalty(direction: np.ndarray, weight: float) -> np.ndarray:
    """Return the metric in which a square distance off a direction counts 1 + weight times: u u' + sqrt(1 + weight) (I - u u').

    Parameters
    ----------
    direction : (D,), of any length, such as target mean - source mean
    weight : at least 0, which is no penalty

    Returns
    -------
    ndarray
        float64 (D, D), symmetric

    Raises
    ------
    SteerError
        for a direction of length 0 or a negative weight
    """
    length = float(np.linalg.norm(direction))
    if length == 0 or weight < 0:
        raise SteerError(
            f"an orthogonal penalty needs a direction and a weight >= 0, not length {length:g}, weight {weight:g}."
        )
    unit = np.asarray(direction, np.float64) / length
    along = np.outer(unit, unit)
    return np.asarray(along + np.sqrt(1 + weight) * (np.eye(len(unit)) - along))
