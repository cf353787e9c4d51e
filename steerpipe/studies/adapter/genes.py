"""What an adapter knows of a perturbed gene: of the model, of GO, of regulons, and of the control cells."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD

from ...config import Config
from ...data.genesets import GeneSets, load_library
from ...data.regulons import load_regulons
from ...pipeline.experiment import Experiment

log = logging.getLogger(__name__)


def gene_features(experiment: Experiment, genes: Sequence[str], control: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return what is known of some genes, float64 (n, P), and the parts that it is made of.

    Each part has unit mean length over the genes that it knows, and zeros for the others: no part outweighs another.

    Parameters
    ----------
    control : mean log1p CP10K (G_valid,) of the control cells to fit on
    """
    config = experiment.context.config
    parts, names = [], []
    for name in config.adapter.features:
        found = _part(experiment, name, genes, control)
        if found is None:
            continue
        length = np.linalg.norm(found, axis=1)
        if not length.any():
            log.warning("adapter.features: %s knows none of the perturbed genes and is left out.", name)
            continue
        parts.append(found / length[length > 0].mean())
        names.append(f"{name} ({found.shape[1]} columns, {int((length > 0).sum())} of {len(genes)} genes)")
    return (np.concatenate(parts, 1) if parts else np.zeros((len(genes), 0))), names


def check_sources(config: Config) -> None:
    """Refuse, before anything is computed, a library or a network that is not there.

    Raises
    ------
    SteerError
        What is missing.
    """
    if config.adapter.regulons is not None and "regulons" in config.adapter.features:
        load_regulons(config.adapter.regulons, "adapter.regulons")
    if "go" in config.adapter.features:
        load_library(config.annotate.library)


def _part(experiment: Experiment, name: str, genes: Sequence[str], control: np.ndarray) -> np.ndarray | None:
    config = experiment.context.config
    if name == "embedding":
        table = gene_embeddings(experiment)
        return (
            None
            if table is None
            else _reduced(sp.csr_matrix(table[1]), table[0], genes, config.adapter.components, config.seed)
        )
    if name == "go":
        return _members(load_library(config.annotate.library), genes, config)
    if name == "regulons":
        if config.adapter.regulons is None:
            return None
        network = load_regulons(config.adapter.regulons, "adapter.regulons")
        targets = {str(tf): frozenset(some["target"]) for tf, some in network.groupby("source")}
        return _members(GeneSets("regulons", tuple(targets), tuple(targets), tuple(targets.values())), genes, config)
    column = {gene: i for i, gene in enumerate(experiment.genes)}
    return np.array([[control[column[gene]] if gene in column else 0.0] for gene in genes]).reshape(len(genes), 1)


def gene_embeddings(experiment: Experiment) -> tuple[list[str], np.ndarray] | None:
    """Return the model's genes and its own embeddings of them, (G, D); None where the model has no such table."""
    model = experiment.cached.model
    table = getattr(model, "positions", None)
    if not isinstance(table, torch.Tensor):
        log.info("adapter.features: this model has no table of gene positions; its embedding is left out.")
        return None
    genes = list(model.genes)
    return genes, table[: len(genes)].detach().cpu().double().numpy()


def _members(sets: GeneSets, genes: Sequence[str], config: Config) -> np.ndarray:
    """Components of the membership of all genes in the sets."""
    every = sorted(frozenset().union(*sets.genes))
    return _reduced(sets.matrix(every).T.tocsr().astype(float), every, genes, config.adapter.components, config.seed)


def _reduced(matrix: sp.csr_matrix, every: Sequence[str], genes: Sequence[str], n: int, seed: int) -> np.ndarray:
    """Rows of some genes in the first n components of all genes' table; zeros where the table lacks a gene."""
    n = min(n, min(matrix.shape) - 1)
    values = TruncatedSVD(n, random_state=seed).fit_transform(matrix) if n >= 1 else matrix.toarray()
    row = {gene: i for i, gene in enumerate(every)}
    out = np.zeros((len(genes), values.shape[1]))
    for i, gene in enumerate(genes):
        if gene in row:
            out[i] = values[row[gene]]
    return out
