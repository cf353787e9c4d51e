"""Gene-set libraries: any GMT file, the shipped Gene Ontology, MSigDB and Enrichr by name."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..errors import SteerError, unknown
from .datasets import data_dir
from .genes import RESOURCES, alias_map
from .ontology import direct_annotation, go_id, information_content, term_names

SHIPPED = "go_bp_propagated.gmt.gz"
MSIGDB = {"hallmark": ("human_hallmark_v2025.gmt", "h.all"), "reactome": ("human_reactome_v2025.gmt.gz", "c2.cp.reactome")}
MSIGDB_RELEASE = "2025.1.Hs"
NAMES = ("go_bp", "go_bp_direct", *MSIGDB)


@dataclass(frozen=True)
class GeneSets:
    """A library of gene sets.

    Attributes
    ----------
    name : what was asked for
    terms, ids : the sets' names, and their GO ids or other descriptions
    genes : the sets' members, as symbols
    """

    name: str
    terms: tuple[str, ...]
    ids: tuple[str, ...]
    genes: tuple[frozenset[str], ...]

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def information(self) -> np.ndarray:
        """float64 (S,): IC of each set's GO term on the propagated annotation; NaN where a set is no GO process."""
        content = information_content()
        found = (go_id(term_id, term) for term_id, term in zip(self.ids, self.terms, strict=True))
        return np.array([content.get(one, np.nan) if one else np.nan for one in found])

    def matrix(self, genes: Sequence[str]) -> sp.csr_matrix:
        """Return membership int32 (S, G) of a model's genes: by symbol, then through the alias map."""
        column = {gene: i for i, gene in enumerate(genes)}
        alias = alias_map()
        rows, columns = [], []
        for row, members in enumerate(self.genes):
            found = {column.get(gene, column.get(alias.get(gene, ""), -1)) for gene in members} - {-1}
            rows += [row] * len(found)
            columns += sorted(found)
        return sp.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(self), len(column)))

    def take(self, keep: np.ndarray) -> GeneSets:
        """Return the sets at some positions."""
        return GeneSets(self.name, *(tuple(field[i] for i in keep) for field in (self.terms, self.ids, self.genes)))


def find_set(name: str, setting: str) -> tuple[str, frozenset[str]]:
    """Return the name and the genes of one set, asked for as LIBRARY:SET, say `hallmark:interferon gamma response`.

    Case, `_` and the library's own prefix (HALLMARK_) do not matter. A set that is called so is taken, else the only one whose
    name holds these words, else the only one that holds these letters.

    Parameters
    ----------
    setting : how messages call what was typed

    Raises
    ------
    SteerError
        No such library or set, or several sets that it could be.
    """
    library, _, wanted = name.partition(":")
    if library == "enrichr":
        library, _, wanted = wanted.partition(":")
        library = f"enrichr:{library}"
    if not wanted:
        raise SteerError(f"{setting}={name} must be LIBRARY:SET, as in 'hallmark:interferon gamma response'.")
    sets = load_library(library, f"library of {setting}")
    words = [_words(term, library) for term in sets.terms]
    wanted = _words(wanted, library)
    same = [i for i, one in enumerate(words) if one == wanted]
    same = same or [i for i, one in enumerate(words) if f" {wanted} " in f" {one} "]
    same = same or [i for i, one in enumerate(words) if wanted in one]
    if len(same) == 1:
        return sets.terms[same[0]], sets.genes[same[0]]
    if not same:
        raise unknown(f"set of {library} in {setting}", wanted, words)
    some = "; ".join(words[i] for i in same[:8]) + (f"; ... ({len(same)} in all)" if len(same) > 8 else "")
    raise SteerError(f"{setting}={name} could be any of: {some}. Give the whole name of one.")


def _words(term: str, library: str) -> str:
    """A set's name as people type it."""
    return term.lower().replace("_", " ").removeprefix(f"{library} ").strip()


def load_library(name: str, setting: str = "annotate.library") -> GeneSets:
    """Load a library: a path to a .gmt or .gmt.gz, or go_bp, go_bp_direct, hallmark, reactome, enrichr:NAME.

    go_bp (propagated) and go_bp_direct are shipped. hallmark and reactome are read from $STEER_DATA/genesets or $STEER_DATA,
    else fetched by gseapy (MSigDB 2025); Enrichr's libraries likewise.

    Parameters
    ----------
    setting : how messages call what was typed

    Raises
    ------
    SteerError
        No such library, or it is neither on disk nor to be fetched; the message names the file that would be taken.
    """
    if name.startswith("go_bp") and name in NAMES:
        return _shipped(name)
    if name in MSIGDB:
        return _named(name, MSIGDB[name][0], setting)
    if name.startswith("enrichr:"):
        return _named(name, f"enrichr.{name.split(':', 1)[1]}.gmt.gz", setting)
    path = Path(name).expanduser()
    if path.is_file():
        return read_gmt(path)
    if "/" in name or ".gmt" in name:
        raise SteerError(f"{setting}={name} does not exist (working folder: {Path.cwd()}).")
    raise unknown(setting, name, [*NAMES, "enrichr:NAME", "a path to a .gmt or .gmt.gz"])


def local_file(name: str) -> Path | None:
    """Return the file that a library is read from, None for a shipped or a fetched one: its digest goes into the key."""
    if name.startswith("go_bp"):
        return None
    if name in MSIGDB or name.startswith("enrichr:"):
        file = MSIGDB[name][0] if name in MSIGDB else f"enrichr.{name.split(':', 1)[1]}.gmt.gz"
        return next((path for path in _candidates(file) if path.is_file()), None)
    path = Path(name).expanduser()
    return path if path.is_file() else None


def read_gmt(path: Path) -> GeneSets:
    """Read a GMT file, gzipped or not: name, description, genes, tab-separated.

    Raises
    ------
    SteerError
        The file is no GMT.
    """
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SteerError(f"{path} cannot be read as GMT ({error}).") from error
    return parse_gmt(text, str(path))


def parse_gmt(text: str, name: str) -> GeneSets:
    """Parse GMT lines; genes with a weight (`CD8A,1.0`, as some Enrichr libraries have) lose it."""
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    if not lines or any(len(line) < 3 for line in lines):
        raise SteerError(f"{name} is no GMT file: each line needs a name, a description and genes, separated by tabs.")
    members = tuple(frozenset(gene.split(",")[0] for gene in line[2:] if gene) for line in lines)
    return GeneSets(name, tuple(line[0] for line in lines), tuple(line[1] for line in lines), members)


@functools.cache
def _shipped(name: str) -> GeneSets:
    if name == "go_bp":
        return parse_gmt(gzip.decompress((RESOURCES / SHIPPED).read_bytes()).decode(), name)
    names = term_names()
    direct = {term: genes for term, genes in direct_annotation().items() if term in names}
    return GeneSets(name, tuple(names[term] for term in direct), tuple(direct), tuple(direct.values()))


def _candidates(file: str) -> list[Path]:
    return [data_dir() / "genesets" / file, data_dir() / file]


def _named(name: str, file: str, setting: str) -> GeneSets:
    """Read a library from the data folder, else fetch it by gseapy."""
    for path in _candidates(file):
        if path.is_file():
            found = read_gmt(path)
            return GeneSets(name, found.terms, found.ids, found.genes)
    try:
        sets = _fetch(name)
    except Exception as error:  # gseapy and requests raise what they please
        raise SteerError(
            f"{setting}={name} is neither at {_candidates(file)[0]} nor to be had by gseapy ({type(error).__name__}); "
            "put the file there (set STEER_DATA), or go online with steerpipe[genesets], or use go_bp."
        ) from error
    return GeneSets(name, tuple(sets), ("",) * len(sets), tuple(frozenset(genes) for genes in sets.values()))


def _fetch(name: str) -> dict[str, list[str]]:
    import gseapy

    if name in MSIGDB:
        sets = gseapy.Msigdb().get_gmt(category=MSIGDB[name][1], dbver=MSIGDB_RELEASE)
    else:
        sets = gseapy.get_library(name.split(":", 1)[1], organism="Human")
    if not sets:
        raise ValueError("nothing came back")
    return dict(sets)
