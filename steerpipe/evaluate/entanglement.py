"""Does a feature's gene set pull one way? Entanglement of the features that a recipe recruits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from ..sae.model import TopKSAE
from ..steering.intervene import CachedCells

SET_SIZE = (10, 100)
"""A gene set has so many genes at the least and at the most."""


def entanglement(gene_sets: Mapping[int, np.ndarray], signs: np.ndarray) -> pd.DataFrame:
    """Return min(n_up, n_down) / max(n_up, n_down) over each gene set's DE genes: 0 pulls one way, 1 both alike.

    Parameters
    ----------
    gene_sets : feature -> positions of its genes
    signs : (G,), +1 for genes that rise from source to target, -1 for those that fall, 0 for the others

    Returns
    -------
    DataFrame with columns feature, n_genes, n_up, n_down, entanglement (NaN for a set without DE genes)
    """
    rows = []
    for feature, genes in gene_sets.items():
        up, down = int((signs[genes] > 0).sum()), int((signs[genes] < 0).sum())
        value = min(up, down) / max(up, down) if up + down else np.nan
        rows.append({"feature": feature, "n_genes": len(genes), "n_up": up, "n_down": down, "entanglement": value})
    return pd.DataFrame(rows, columns=["feature", "n_genes", "n_up", "n_down", "entanglement"])


def participation_set(activity: np.ndarray) -> np.ndarray:
    """Return the genes of a feature, strongest first: as many as its participation ratio (sum M^2)^2 / sum M^4, 10 to 100.

    Parameters
    ----------
    activity : (G,) mean |code| of the feature at each gene
    """
    square = np.asarray(activity, np.float64) ** 2
    ratio = square.sum() ** 2 / max(float((square**2).sum()), 1e-300)
    n = int(np.clip(round(ratio), *SET_SIZE))
    order = np.argsort(-square, kind="stable")[:n]
    return np.asarray(order[square[order] > 0])


def gene_activity(
    cached: CachedCells, sae: TopKSAE, features: np.ndarray, cells: np.ndarray, *, batch_size: int = 8
) -> np.ndarray:
    """Return the mean |code| of some features at each valid gene, float64 (n, G_valid): one pass of the SAE's encoder."""
    number = torch.full((sae.n_features,), -1, device=cached.device)
    number[torch.from_numpy(np.asarray(features)).to(cached.device)] = torch.arange(len(features), device=cached.device)
    n_genes = len(cached.valid)
    total = torch.zeros(len(features) * n_genes, dtype=torch.float64, device=cached.device)
    column = torch.zeros(int(cached.valid.max()) + 1, dtype=torch.int64, device=cached.device)
    column[cached.valid] = torch.arange(n_genes, device=cached.device)
    with torch.no_grad():
        for batch in cached.batches(cells, batch_size):
            codes = cached.encode(sae, batch, ids=cached.valid)
            ids = cached.valid if batch.genes is None else torch.where(torch.isin(batch.genes, cached.valid), batch.genes, 0)
            gene = column[ids][..., None]
            row = torch.where(codes.values != 0, number[codes.indices], -1)
            where = (row * n_genes + gene)[row >= 0]
            total.index_add_(0, where, codes.values[row >= 0].abs().double())
    return np.asarray(total.reshape(len(features), n_genes).cpu().numpy() / max(len(cells), 1))


def feature_entanglement(
    cached: CachedCells,
    sae: TopKSAE,
    groups: Mapping[str, np.ndarray],
    cells: np.ndarray,
    signs: np.ndarray,
    *,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Return the entanglement of some features' gene sets, by group.

    Parameters
    ----------
    sae : of all valid genes' tokens
    groups : name -> features, each group's in the column `recipe`
    cells : rows of `cached` in which the features' activity is measured
    signs : see `entanglement`
    """
    features = np.unique(np.concatenate(list(groups.values())))
    activity = gene_activity(cached, sae, features, cells, batch_size=batch_size)
    sets = {int(f): participation_set(row) for f, row in zip(features, activity, strict=True)}
    frames = [entanglement({int(f): sets[int(f)] for f in some}, signs).assign(recipe=name) for name, some in groups.items()]
    return pd.concat(frames, ignore_index=True)
