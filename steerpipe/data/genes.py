"""The 19,264-gene list of AIDO.Cell, and how a dataset's genes are matched to a model's."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..errors import SteerError

RESOURCES = files("steerpipe.data") / "resources"


def _table(name: str) -> list[list[str]]:
    text = gzip.decompress((RESOURCES / name).read_bytes()).decode()
    return [line.split("\t") for line in text.splitlines()[1:]]


@functools.cache
def gene_list() -> tuple[str, ...]:
    """Return the 19,264 gene symbols of AIDO.Cell in model order (OS_scRNA_gene_index.19264.tsv)."""
    return tuple(row[0] for row in _table("gene_list_19264.tsv.gz"))


@functools.cache
def alias_map() -> dict[str, str]:
    """Return {current HGNC symbol or Ensembl id: symbol in the model's list}, without symbols of the list."""
    known = set(gene_list())
    pairs: dict[str, str] = {}
    for symbol, _, current, _, ensembl, _ in _table("gene_map_19264.tsv.gz"):
        for name in (current, ensembl):
            if name and name not in known:
                pairs.setdefault(name, symbol)
    return pairs


@dataclass(frozen=True)
class Alignment:
    """How a dataset's genes sit in a model's gene list.

    Attributes
    ----------
    genes : the model's gene symbols, in model order, G of them
    source, target : int64 (n_pairs,), dataset column and model position of every matched column, by column
    how : (n_pairs,), by what it matched: symbol, alias or ensembl
    """

    genes: tuple[str, ...]
    source: np.ndarray
    target: np.ndarray
    how: np.ndarray

    @property
    def by_symbol(self) -> int:
        """How many dataset columns matched by their own name."""
        return int((self.how == "symbol").sum())

    @property
    def by_alias(self) -> int:
        """How many matched through the alias map or their Ensembl id."""
        return len(self.how) - self.by_symbol

    def table(self, var_names: Sequence[str]) -> pd.DataFrame:
        """Return one row a matched column: column (the dataset's name), gene (the model's), how, copies (of the gene)."""
        names = np.asarray(var_names, dtype=object)[self.source]
        copies = np.bincount(self.target, minlength=len(self.genes))[self.target]
        genes = np.asarray(self.genes, dtype=object)[self.target]
        return pd.DataFrame({"column": names, "gene": genes, "how": self.how, "copies": copies})

    @property
    def valid(self) -> np.ndarray:
        """bool (G,): the genes that the dataset has. The others are filled with 0, never pooled or reported."""
        mask = np.zeros(len(self.genes), dtype=bool)
        mask[self.target] = True
        return mask

    def apply(self, counts: sp.spmatrix | np.ndarray) -> sp.csr_matrix:
        """Reorder counts (N, n_vars) to (N, G) float32 CSR; columns of one gene are summed, missing genes are 0."""
        shape = (counts.shape[1], len(self.genes))
        select = sp.csr_matrix((np.ones(len(self.source), np.float32), (self.source, self.target)), shape=shape)
        return sp.csr_matrix(sp.csr_matrix(counts, dtype=np.float32) @ select)


def align(
    var_names: Sequence[str],
    genes: Sequence[str],
    *,
    aliases: bool = True,
    ids: Sequence[str] | None = None,
    duplicates: str = "sum",
    min_genes: int = 200,
) -> Alignment:
    """Match a dataset's genes to a model's: by symbol, then through the alias map, then by Ensembl id.

    Parameters
    ----------
    var_names : the dataset's gene names (symbols, or Ensembl ids with or without version)
    genes : the model's gene symbols, in model order
    aliases : whether names that are not in the list go through the alias map
    ids : Ensembl ids of the same columns, where the dataset has them apart
    duplicates : what becomes of several columns of one gene: sum, or refuse
    min_genes : fewer matches than this are refused (a smaller model asks for half of its own genes)

    Raises
    ------
    SteerError
        Too few genes match; the message says how many did and what to try. Or columns share a gene and are refused.
    """
    position = {gene: i for i, gene in enumerate(genes)}
    exact = {i: position[name] for i, name in enumerate(var_names) if name in position}
    steps = {"symbol": exact}
    taken = set(exact.values())
    # An alias only fills a gene that no column names outright: the dataset's own symbol is the better witness.
    alias = alias_map() if aliases else {}
    for how, names in {"alias": var_names, "ensembl": ids if aliases and ids is not None else []}.items():
        done = set().union(*steps.values())
        found = {
            i: position[gene]
            for i, name in enumerate(names)
            if i not in done and (gene := alias.get(name) or alias.get(str(name).split(".")[0])) in position
        }
        steps[how] = {i: target for i, target in found.items() if target not in taken}
        taken |= set(steps[how].values())
    pairs = sorted((i, target, how) for how, found in steps.items() for i, target in found.items())
    needed = min(min_genes, len(genes) // 2)
    if len(pairs) < needed:
        msg = (
            f"only {len(exact)} of {len(var_names)} gene names match the model's {len(genes)} genes "
            f"(+{len(pairs) - len(exact)} through the alias map; first names: {', '.join(map(str, list(var_names)[:3]))}); "
            f"at least {needed} are needed. Use human gene symbols or Ensembl ids as var_names, "
            "or name the column of var that has them with dataset.gene_column"
            + ("." if aliases else ", or set dataset.aliases=true.")
        )
        raise SteerError(msg)
    columns, targets = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    alignment = Alignment(tuple(genes), columns, targets, np.array([pair[2] for pair in pairs], dtype=object))
    if duplicates == "refuse":
        table = alignment.table(var_names)
        double = sorted(set(table.gene[table.copies > 1]))
        if double:
            some = ", ".join(double[:3])
            raise SteerError(f"{len(double)} genes have several columns ({some}); merge them, or set dataset.duplicates=sum.")
    return alignment
