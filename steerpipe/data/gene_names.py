"""Where a dataset keeps its gene names: in the index of var, or in one of var's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import unknown
from .genes import align

INDEX = "index"
SYMBOL_COLUMNS = (
    "feature_name",
    "gene_name",
    "gene_names",
    "gene_symbols",
    "gene_symbol",
    "gene_short_name",
    "symbol",
    "symbols",
    "gene",
    "genes",
    "hgnc_symbol",
    "external_gene_name",
)
"""Columns of `var` where files keep symbols beside an index of Ensembl ids or of numbers, in any case of letters."""
ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_gene_id", "feature_id", "ensembl")
"""Columns of `var` where files keep Ensembl ids beside symbols, likewise."""


@dataclass(frozen=True)
class GeneNames:
    """The names to match, one a column of the counts.

    Attributes
    ----------
    names : symbols or Ensembl ids
    ids : Ensembl ids beside them, where there are any
    column : where the names are from: a column of var, or `index`
    """

    names: list[str]
    ids: list[str] | None
    column: str


def gene_names(var: pd.DataFrame, genes: Sequence[str], *, column: str | None = None, aliases: bool = True) -> GeneNames:
    """Return the names of a dataset's genes: of all places that could hold them the one that matches most of a model's genes.

    The index wins a tie; so does an earlier column over a later one.

    Parameters
    ----------
    var : one row a gene
    genes : the model's gene symbols
    column : the column to take, or `index`, in place of a search
    aliases : whether names match through the alias map and by Ensembl id too

    Raises
    ------
    SteerError
        `var` has no such column.
    """
    index = var.index.astype(str).tolist()
    if column is not None:
        return _named(var, index, _own(var, column))
    spots = [INDEX, *_columns(var, SYMBOL_COLUMNS), *_columns(var, ID_COLUMNS)]
    found = [_named(var, index, spot) for spot in spots]
    if len(found) == 1:
        return found[0]
    matched = [align(one.names, genes, aliases=aliases, ids=one.ids, min_genes=0).valid.sum() for one in found]
    return found[int(np.argmax(matched))]


def _named(var: pd.DataFrame, index: list[str], spot: str) -> GeneNames:
    column = next((c for c in _columns(var, ID_COLUMNS) if c != spot), None)
    ids = index if column is None and spot != INDEX else None if column is None else var[column].astype(str).tolist()
    return GeneNames(index if spot == INDEX else var[spot].astype(str).tolist(), ids, spot)


def _columns(var: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    lower = {str(column).lower(): column for column in reversed(var.columns)}
    return [lower[name] for name in wanted if name in lower]


def _own(var: pd.DataFrame, column: str) -> str:
    if column in var:
        return column
    if column in (INDEX, var.index.name):
        return INDEX
    raise unknown("dataset.gene_column", column, [INDEX, *var.columns])
