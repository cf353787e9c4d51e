"""A dataset as a model sees it: rows of raw counts in the model's gene order, read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from ..config import DatasetConfig
from ..errors import SteerError
from .counts import CHUNK, read_rows
from .gene_names import gene_names
from .genes import Alignment, align


class CellSource:
    """Counts (N, G) of an AnnData, aligned row by row: memory is that of the rows asked for, on disk or not.

    Parameters
    ----------
    adata : raw counts, in memory or backed
    genes : the model's gene symbols, in model order

    Attributes
    ----------
    alignment : which genes matched
    obs : labels, one row a cell
    table : one row a matched column (see Alignment.table), and names_from
    names_from : where the dataset's gene names are: a column of var, or `index`

    Raises
    ------
    SteerError
        No such dataset.gene_column, too few genes match, or a cell has no count on those that do.
    """

    def __init__(self, adata: AnnData, genes: Sequence[str], config: DatasetConfig) -> None:
        named = gene_names(adata.var, genes, column=config.gene_column, aliases=config.aliases)
        options: dict[str, Any] = {"aliases": config.aliases, "ids": named.ids, "duplicates": config.duplicates}
        self.alignment: Alignment = align(named.names, genes, **options)
        self.names_from = named.column
        self.table = self.alignment.table(named.names).assign(names_from=named.column)
        self.obs: pd.DataFrame = adata.obs
        self.shape = (adata.n_obs, len(genes))
        self._X = adata.X
        empty = sum(int((self[i : i + CHUNK].sum(axis=1) == 0).sum()) for i in range(0, adata.n_obs, CHUNK))
        if empty:
            raise SteerError(f"{empty} cells have no count on the model's {len(genes)} genes; drop them.")

    @property
    def valid(self) -> np.ndarray:
        """int64 (G_valid,): positions of the genes that the dataset has."""
        return np.flatnonzero(self.alignment.valid)

    def __getitem__(self, rows: Any) -> sp.csr_matrix:
        """Return float32 CSR counts of a slice of cells, or of ascending cell positions."""
        return self.alignment.apply(read_rows(self._X, rows))
