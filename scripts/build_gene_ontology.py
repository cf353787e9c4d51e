"""Build the Gene Ontology files in steerpipe/data/resources from two Debian packages, and say whether they changed.

    python scripts/build_gene_ontology.py [--check] [--debs FOLDER]

r-bioc-org.hs.eg.db 3.16 (gene to term, with evidence) and r-bioc-go.db 3.16 (terms and their relations) hold GO's release of
2022-07-01 in SQLite. They are fetched with `apt-get download` (Debian 12; 50 MB), or read from a folder that has them,
and unpacked with `dpkg-deb`; nothing is installed and no R is needed. Only biological processes are kept.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sqlite3
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

RESOURCES = Path(__file__).resolve().parent.parent / "steerpipe" / "data" / "resources"
PACKAGES = {
    "r-bioc-org.hs.eg.db": "0f61810d35b858915b1a9787d8dcab08b7e164c14c20a9e1d86eb9837308c2c2",
    "r-bioc-go.db": "6cf9c43b97212811ecb7ad0d7cde12e76f984ab7494a59c02455239a9dd3243d",
}
"""sha256 of version 3.16.0-1."""
SIZES = range(10, 501)
"""Genes that a propagated set may have."""


def build(annotation: sqlite3.Connection, ontology: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the lines of every file by its name."""
    direct = annotation.execute(
        "SELECT symbol, gene_id, go_id, evidence FROM go_bp JOIN genes USING (_id) JOIN gene_info USING (_id)"
    ).fetchall()
    direct.sort(key=lambda row: (int(row[1]), row[2], row[3]))
    edges = ontology.execute(
        "SELECT child.go_id, parent.go_id, relationship_type FROM go_bp_parents edge "
        "JOIN go_term child ON child._id = edge._id JOIN go_term parent ON parent._id = edge._parent_id"
    ).fetchall()
    terms = ontology.execute("SELECT go_id, term FROM go_term WHERE ontology = 'BP'").fetchall()
    names, members = dict(terms), defaultdict(set)
    for symbol, go_id in annotation.execute("SELECT symbol, go_id FROM go_bp_all JOIN gene_info USING (_id)"):
        members[go_id].add(symbol)
    sets = [(names[go_id], go_id, *sorted(genes)) for go_id, genes in sorted(members.items()) if len(genes) in SIZES]
    return {
        "go_bp_propagated.gmt.gz": _lines(sets),
        "go_bp_direct.tsv.gz": ["symbol\tentrez\tgo_id\tevidence", *_lines(direct)],
        "go_bp_edges.tsv.gz": ["child\tparent\trelation", *_lines(sorted(edges))],
        "go_bp_terms.tsv.gz": ["go_id\tterm", *_lines(sorted(terms))],
    }


def unpack(folder: Path, work: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Unpack both packages and open the databases in them."""
    for name, digest in PACKAGES.items():
        found = sorted(folder.glob(f"{name}_*.deb"))
        if not found:
            raise SystemExit(f"no {name}_*.deb in {folder}; on Debian 12: apt-get download {name}")
        if hashlib.sha256(found[0].read_bytes()).hexdigest() != digest:
            print(f"{found[0].name} is not version 3.16.0-1: the files will differ", file=sys.stderr)
        subprocess.run(["dpkg-deb", "-x", found[0], work], check=True)
    library = work / "usr/lib/R/site-library"
    return tuple(
        sqlite3.connect(library / name) for name in ("org.Hs.eg.db/extdata/org.Hs.eg.sqlite", "GO.db/extdata/GO.sqlite")
    )


def packed(lines: list[str]) -> bytes:
    """Return the lines gzipped, without a name or a time: the same bytes each time."""
    return gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0)


def _lines(rows: Iterable[tuple[object, ...]]) -> list[str]:
    return ["\t".join(map(str, row)) for row in rows]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files that are there and write nothing")
    parser.add_argument("--debs", type=Path, help="folder that has the two .deb files already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = options.debs
        if folder is None:
            folder = Path(work)
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
        files = build(*unpack(folder, Path(work)))
    changed = False
    for name, lines in files.items():
        path = RESOURCES / name
        same = path.is_file() and gzip.decompress(path.read_bytes()) == ("\n".join(lines) + "\n").encode()
        changed |= not same
        if not options.check:
            path.write_bytes(packed(lines))
        print(f"{name}: {len(lines):,} lines, {'as it was' if same else 'changed'}")
    if options.check and changed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
