"""Which features share their genes: the Ochiai graph, its components and modules, and what their members have in common.

On few genes, or with broad features, one component takes in nearly everything; modules (Louvain communities) cut it up.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

ROWS = 1024
MOST_EDGES = 1_000_000
"""Louvain takes about half a minute on so many; of more, the strongest are taken."""


def ochiai_graph(sets: sp.csr_matrix, threshold: float = 0.2) -> sp.csr_matrix:
    """Return the graph of features whose sets A, B have |A n B| / sqrt(|A||B|) >= threshold (Ochiai 1957).

    Parameters
    ----------
    sets : 0/1 (F, G)

    Returns
    -------
    csr_matrix float64 (F, F), symmetric, no diagonal. Only blocks of 1,024 rows are held before the threshold.
    """
    size = np.diff(sets.indptr).astype(np.float64)
    other = sp.csr_matrix(sets.T)
    blocks = []
    for start in range(0, sets.shape[0], ROWS):
        block = sp.coo_matrix(sets[start : start + ROWS] @ other)
        value = block.data / np.sqrt(size[start + block.row] * size[block.col])
        keep = (value >= threshold) & (start + block.row != block.col)
        shape = (block.shape[0], sets.shape[0])
        blocks.append(sp.csr_matrix((value[keep], (block.row[keep], block.col[keep])), shape=shape))
    return sp.csr_matrix(sp.vstack(blocks))


def components(graph: sp.csr_matrix, *, smallest: int = 3) -> np.ndarray:
    """Return each feature's component, int64 (F,), numbered from 0 by falling size; -1 in components under `smallest`."""
    _, labels = connected_components(graph, directed=False)
    return _by_size(labels, smallest)


def find_modules(graph: sp.csr_matrix, *, smallest: int = 3, seed: int = 0) -> np.ndarray:
    """Return each feature's module (Louvain, weights Ochiai; Blondel et al. 2008), int64 (F,), numbered as `components`."""
    upper = sp.coo_matrix(sp.triu(graph))
    keep = np.argsort(-upper.data, kind="stable")[:MOST_EDGES]
    network = nx.Graph()
    network.add_nodes_from(range(graph.shape[0]))
    edges = zip(upper.row[keep].tolist(), upper.col[keep].tolist(), upper.data[keep].tolist(), strict=True)
    network.add_weighted_edges_from(edges)
    labels = np.empty(graph.shape[0], np.int64)
    # sets of small integers iterate in one order, so that a seed gives one answer
    for number, members in enumerate(nx.community.louvain_communities(network, seed=seed)):
        labels[list(members)] = number
    return _by_size(labels, smallest)


def _by_size(labels: np.ndarray, smallest: int) -> np.ndarray:
    """Number groups from 0 by falling size; -1 for those under `smallest`."""
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    number = np.full(len(sizes), -1)
    kept = order[sizes[order] >= smallest]
    number[kept] = np.arange(len(kept))
    return np.asarray(number[labels], np.int64)


def name_modules(
    module: np.ndarray,
    sets: sp.csr_matrix,
    genes: Sequence[str],
    pairs: pd.DataFrame,
    information: np.ndarray,
    *,
    n_terms: int = 3,
    n_genes: int = 8,
) -> pd.DataFrame:
    """Describe each module by the terms that most of its features share, and by their commonest genes.

    Parameters
    ----------
    module : (F,), -1 outside
    pairs : significant pairs, columns feature, term_index, term
    information : (S,) IC of the library's sets, which breaks ties

    Returns
    -------
    DataFrame with columns module, n_features, name (its first term, else its genes), terms, share (of the features that
    have the first term), genes
    """
    rows = []
    content = np.nan_to_num(information)
    for number in range(module.max(initial=-1) + 1):
        members = np.flatnonzero(module == number)
        often = np.asarray(sets[members].sum(axis=0)).ravel()
        top = [genes[i] for i in np.argsort(-often, kind="stable")[:n_genes] if often[i]]
        inside = pairs[pairs["feature"].isin(members)]
        counts = inside.groupby(["term_index", "term"], sort=False).size().reset_index(name="n")
        counts["content"] = content[counts["term_index"].to_numpy(int)]
        counts = counts.sort_values(["n", "content", "term_index"], ascending=[False, False, True])
        terms = counts["term"].head(n_terms).tolist()
        share = float(counts["n"].iloc[0]) / len(members) if len(counts) else 0.0
        rows.append(
            {
                "module": number,
                "n_features": len(members),
                "name": terms[0] if terms else "genes " + ", ".join(top[:3]),
                "terms": "; ".join(terms),
                "share": share,
                "genes": ", ".join(top),
            }
        )
    return pd.DataFrame(rows, columns=["module", "n_features", "name", "terms", "share", "genes"])
