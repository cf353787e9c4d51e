"""The gene panel of a model that is trained: of `mini` two thousand genes of the 19,264, or every gene of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from ..data.genes import RESOURCES, alias_map, align, gene_list
from ..errors import SteerError


def marker_genes() -> list[str]:
    """Return the canonical immune and interferon-response markers, by their symbols in the gene list."""
    lines = (RESOURCES / "immune_markers.txt").read_text().splitlines()
    names = [gene for line in lines if not line.startswith("#") for gene in line.split(":", 1)[1].split()]
    known, alias = set(gene_list()), alias_map()
    found = (name if name in known else alias.get(name) for name in names)
    return list(dict.fromkeys(gene for gene in found if gene))


def whole_panel(names: Sequence[str]) -> list[str]:
    """Return every gene of a dataset, in its order: symbols as they are, Ensembl ids by today's symbol where there is one.

    Raises
    ------
    SteerError
        A name with a space: genes.txt has one a line.
    """
    alias = alias_map()
    genes = dict.fromkeys(alias.get(name.split(".")[0], name) if name.startswith("ENSG") else name for name in map(str, names))
    broken = next((gene for gene in genes if len(gene.split()) != 1), None)
    if broken is not None:
        raise SteerError(f"pretrain.panel=all: gene name '{broken}' has a space; rename it, or take pretrain.panel=variable.")
    return list(genes)


def build_panel(train: Sequence[AnnData], required: list[str], *, size: int = 2048) -> list[str]:
    """Choose the panel: `required` genes, then markers, then the training data's most variable genes.

    Parameters
    ----------
    train : raw counts (N, n_vars) of each dataset that the model will be trained on; of several, what counts is the mean of the
        dispersions within each
    required : genes that must be in (those of the embedded dataset)
    size : number of genes
    """
    genes = gene_list()
    tables = [align(one.var_names, genes).apply(one.X) for one in train]
    data = AnnData(sp.vstack(tables, format="csr"))
    data.obs["dataset"] = pd.Categorical(np.repeat([str(i) for i in range(len(train))], [one.n_obs for one in train]))
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    sc.pp.highly_variable_genes(data, flavor="seurat", n_top_genes=size, batch_key="dataset" if len(train) > 1 else None)
    seen = np.max([np.asarray((one > 0).mean(axis=0)).ravel() for one in tables], axis=0)
    score = data.var["dispersions_norm"].fillna(-np.inf).to_numpy()
    score = np.where(seen >= 0.005, score, -np.inf)  # dispersion of a gene seen in few cells is noise
    position = {gene: i for i, gene in enumerate(genes)}
    chosen = dict.fromkeys(position[g] for g in [*required, *marker_genes()] if g in position)
    for i in np.argsort(-score, kind="stable"):
        if len(chosen) >= size:
            break
        chosen.setdefault(int(i))
    return [genes[i] for i in sorted(list(chosen)[:size])]
