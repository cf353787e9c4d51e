"""The 19,264-gene list of AIDO.Cell, and how a dataset's genes are matched to a model's."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
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
    source, target : int64 (n_pairs,), dataset column and model position of every matched column
    by_symbol, by_alias : how many dataset columns matched by their own name, and through the alias map
    """

    genes: tuple[str, ...]
    source: np.ndarray
    target: np.ndarray
    by_symbol: int
    by_alias: int

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


def align(var_names: Sequence[str], genes: Sequence[str], *, aliases: bool = True, min_genes: int = 200) -> Alignment:
    """Match a dataset's genes to a model's by symbol, then by current symbol or Ensembl id.

    Parameters
    ----------
    var_names : the dataset's gene names (symbols, or Ensembl ids with or without version)
    genes : the model's gene symbols, in model order
    aliases : whether names that are not in the list go through the alias map
    min_genes : fewer matches than this are refused (a smaller model asks for half of its own genes)

    Raises
    ------
    SteerError
        Too few genes match; the message says how many did and what to try.
    """
    position = {gene: i for i, gene in enumerate(genes)}
    alias = alias_map() if aliases else {}
    exact = [(i, position[name]) for i, name in enumerate(var_names) if name in position]
    taken = {target for _, target in exact}
    # An alias only fills a gene that no column names outright: the dataset's own symbol is the better witness.
    through = [
        (i, position[gene])
        for i, name in enumerate(var_names)
        if name not in position and (gene := alias.get(name) or alias.get(str(name).split(".")[0])) in position
    ]
    through = [pair for pair in through if pair[1] not in taken]
    needed = min(min_genes, len(genes) // 2)
    if len(exact) + len(through) < needed:
        msg = (
            f"only {len(exact)} of {len(var_names)} gene names match the model's {len(genes)} genes "
            f"(+{len(through)} through the alias map; first names: {', '.join(map(str, list(var_names)[:3]))}); "
            f"at least {needed} are needed. Use human gene symbols or Ensembl ids as var_names"
            + ("." if aliases else ", or set dataset.aliases=true.")
        )
        raise SteerError(msg)
    pairs = np.array(sorted(exact + through), dtype=np.int64).reshape(-1, 2)
    return Alignment(tuple(genes), pairs[:, 0], pairs[:, 1], len(exact), len(through))
