"""The Gene Ontology's biological processes: propagated annotation and information content."""

from __future__ import annotations

import functools
import gzip
import re

import numpy as np
import scipy.sparse as sp

from .genes import RESOURCES

ROOT = "GO:0008150"
"""biological_process."""
GO_ID = re.compile(r"GO:\d{7}")


def rows(name: str) -> list[list[str]]:
    """Return the rows of a shipped table, without its header."""
    text = gzip.decompress((RESOURCES / name).read_bytes()).decode()
    return [line.split("\t") for line in text.splitlines()[1:]]


@functools.cache
def term_names() -> dict[str, str]:
    """Return {GO id: name}."""
    return {row[0]: row[1] for row in rows("go_bp_terms.tsv.gz")}


@functools.cache
def direct_annotation() -> dict[str, frozenset[str]]:
    """Return {GO id: symbols annotated to the term itself}, all evidence codes."""
    members: dict[str, set[str]] = {}
    for symbol, _, go_id, _ in rows("go_bp_direct.tsv.gz"):
        members.setdefault(go_id, set()).add(symbol)
    return {go_id: frozenset(symbols) for go_id, symbols in members.items()}


@functools.cache
def propagated_sizes() -> dict[str, int]:
    """Return {GO id: n_t, the genes annotated to the term or to a descendant over any relation}."""
    terms, _, table = _propagated()
    sizes = np.diff(table.indptr)
    return {term: int(n) for term, n in zip(terms, sizes, strict=True) if n}


def propagated_annotation() -> dict[str, frozenset[str]]:
    """Return {GO id: symbols annotated to the term or to a descendant}, what the shipped GMT is cut from."""
    terms, genes, table = _propagated()
    return {
        term: frozenset(genes[i] for i in table.indices[table.indptr[t] : table.indptr[t + 1]])
        for t, term in enumerate(terms)
        if table.indptr[t + 1] > table.indptr[t]
    }


@functools.cache
def information_content() -> dict[str, float]:
    """Return {GO id: IC(t) = -log(n_t / n_root)} in nats (Resnik 1995), on the propagated annotation; 0 at the root."""
    sizes = propagated_sizes()
    return {term: float(np.log(sizes[ROOT] / n)) for term, n in sizes.items()}


def go_id(*texts: str) -> str | None:
    """Return the GO id in a set's name or description, as Enrichr's `term (GO:0000001)`; None where there is none."""
    found = next((match for text in texts if (match := GO_ID.search(text))), None)
    return None if found is None else found.group()


@functools.cache
def _propagated() -> tuple[list[str], list[str], sp.csr_matrix]:
    """(terms, genes, bool (terms, genes)): direct annotation carried up the relations, level by level."""
    terms = list(term_names())
    at = {term: i for i, term in enumerate(terms)}
    edges = np.array([(at[child], at[parent]) for child, parent, _ in rows("go_bp_edges.tsv.gz") if parent in at])
    ones = np.ones(len(edges), np.float32)
    up = sp.csr_matrix((ones, (edges[:, 1], edges[:, 0])), shape=(len(terms), len(terms)))
    direct = direct_annotation()
    genes = sorted(set().union(*direct.values()))
    column = {gene: i for i, gene in enumerate(genes)}
    pairs = np.array([(at[term], column[gene]) for term, symbols in direct.items() if term in at for gene in symbols])
    shape = (len(terms), len(genes))
    found = sp.csr_matrix((np.ones(len(pairs), np.float32), (pairs[:, 0], pairs[:, 1])), shape=shape)
    total, level = found, found
    while True:
        level = sp.csr_matrix(up @ level)
        level.data[:] = 1
        new = sp.csr_matrix(total + level)
        new.data[:] = 1
        if new.nnz == total.nnz:
            total.sort_indices()
            return terms, genes, total
        total = new
