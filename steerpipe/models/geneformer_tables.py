"""python -m steerpipe.models.geneformer_tables FOLDER TOKENS.pkl MEDIANS.pkl NAMES.pkl

Write FOLDER/genes.csv from Geneformer's pickles: its token dictionary (Ensembl id or special token -> row), its gene medians
(Ensembl id -> non-zero median) and its gene names (symbol -> Ensembl id). A pickle may run any code: these are read by an
unpickler that knows dictionaries, text and numbers, and refuses everything else.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from ..errors import SteerError

KNOWN = {("numpy", "dtype"), ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")}
"""What a pickle may name beside Python's own numbers, text and containers: numpy's numbers."""


class PlainUnpickler(pickle.Unpickler):
    """Reads dictionaries of text and numbers, and runs nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse everything but numpy's numbers."""
        if (module, name) not in KNOWN:
            raise SteerError(f"the pickle names {module}.{name}, which no table of names and numbers needs: it is refused.")
        return super().find_class(module, name)


def read_table(file: Path) -> dict[str, Any]:
    """Return a pickled {text: text or number}.

    Raises
    ------
    SteerError
        The file is no pickle, names anything but plain numbers, or is no dictionary of them.
    """
    try:
        with file.open("rb") as stream:
            found = _load(stream)
    except SteerError as error:
        raise SteerError(f"{file}: {error}") from error
    except (OSError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise SteerError(f"{file} cannot be read as a pickle ({type(error).__name__}).") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SteerError(f"{file} is no dictionary of names.")
    return found


def gene_table(tokens: Mapping[str, int], medians: Mapping[str, float], names: Mapping[str, str]) -> pd.DataFrame:
    """Return genes.csv: columns gene, ensembl_id, token, median; a gene without a median is never a token, and left out.

    A gene is called by its symbol, or by its Ensembl id where it has none or several genes have the same.
    """
    symbols: dict[str, str] = {}
    for symbol, ensembl in names.items():
        symbols.setdefault(ensembl, symbol)
    rows = []
    for ensembl, token in tokens.items():
        special = ensembl.startswith("<")
        if special or ensembl in medians:
            gene = ensembl if special else symbols.get(ensembl, ensembl)
            rows.append((gene, ensembl, int(token), None if special else float(medians[ensembl])))
    table = pd.DataFrame(rows, columns=["gene", "ensembl_id", "token", "median"]).sort_values("token")
    double = table["gene"].duplicated(keep=False)
    table.loc[double, "gene"] = table.loc[double, "ensembl_id"]
    return table


def convert(folder: Path, tokens: Path, medians: Path, names: Path) -> Path:
    """Write folder/genes.csv from the three pickles, and return its path."""
    table = gene_table(read_table(tokens), read_table(medians), read_table(names))
    if not len(table):
        raise SteerError(f"{tokens} and {medians} have no gene in common.")
    beside, file = folder / "genes.csv.tmp", folder / "genes.csv"
    table.to_csv(beside, index=False)
    beside.replace(file)
    return file


def _load(stream: BinaryIO) -> Any:
    return PlainUnpickler(stream).load()


def main(words: list[str]) -> int:
    """Convert, and say what was written; 2 for a wrong call."""
    if len(words) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        folder, *pickles = map(Path, words)
        file = convert(folder, *pickles)
    except SteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{file}: {len(pd.read_csv(file))} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
