"""Regulons: which genes a transcription factor (TF) is known to regulate, and with which sign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import SteerError
from .datasets import data_dir
from .genes import alias_map

COLLECTRI = "collectri"
FILES = ("collectri.csv", "collectri.csv.gz", "collectri_human_prospect.csv.gz")
"""Where CollecTRI is looked for, in $STEER_DATA/genesets and $STEER_DATA, before decoupler is asked for it."""
COLUMNS = {"source": ("source", "tf"), "target": ("target",), "weight": ("weight", "sign", "mor")}
"""Each column of a network, and the names that it has in files."""


class Regulon(NamedTuple):
    """The targets of one TF among the genes of a panel.

    Attributes
    ----------
    tf : its symbol in the panel
    column : its position among the panel's genes
    targets : int64 (n,), ascending positions of its targets, itself left out
    signs : int8 (n,), 1 where it activates, -1 where it represses, 0 where sources disagree
    """

    tf: str
    column: int
    targets: np.ndarray
    signs: np.ndarray


def load_regulons(name: str, setting: str = "regulation.regulons") -> pd.DataFrame:
    """Load a network of TFs and targets: a path to a CSV, or collectri (Mueller-Dott et al., NAR 2023).

    `setting` is what messages name. CollecTRI is read from $STEER_DATA/genesets or $STEER_DATA, else fetched by decoupler
    where that is installed.

    Returns
    -------
    DataFrame
        columns source, target (symbols), weight (float64; its sign counts)

    Raises
    ------
    SteerError
        No such file, or it is no network; CollecTRI is neither on disk nor to be fetched.
    """
    if name != COLLECTRI:
        path = Path(name).expanduser()
        if not path.is_file():
            here = f"working folder: {Path.cwd()}"
            raise SteerError(f"{setting}={name} is no file ({here}); give a CSV of source,target,weight, or collectri.")
        return read_regulons(path)
    candidates = [folder / file for folder in (data_dir() / "genesets", data_dir()) for file in FILES]
    for path in candidates:
        if path.is_file():
            return read_regulons(path)
    try:
        found = _fetch()
    except Exception as error:  # decoupler and requests raise what they please
        raise SteerError(
            f"CollecTRI is neither at {candidates[0]} nor to be had by decoupler ({type(error).__name__}); put the file there "
            f"(set STEER_DATA), or go online with decoupler installed, or give {setting}=my.csv."
        ) from error
    return _network(found, "decoupler's CollecTRI")


def read_regulons(path: Path) -> pd.DataFrame:
    """Read a network from a CSV, gzipped or not, with a header: source,target,weight (or tf,target,sign).

    Raises
    ------
    SteerError
        The file is no such CSV, or a weight is no number.
    """
    try:
        return _network(pd.read_csv(path, keep_default_na=False, dtype=str), str(path))
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SteerError(f"{path} cannot be read as CSV ({error}).") from error


def find_regulons(network: pd.DataFrame, genes: Sequence[str], *, min_targets: int = 1) -> list[Regulon]:
    """Return the regulons of the TFs that a panel has with enough of their targets, largest first.

    Symbols are matched as they are, then through the alias map. An edge that is listed more than once has the sign of the sum.

    Parameters
    ----------
    network : columns source, target, weight
    genes : the panel's symbols
    min_targets : targets in the panel that a TF needs
    """
    column, alias = {gene: i for i, gene in enumerate(genes)}, alias_map()

    def position(symbol: str) -> int:
        return column.get(symbol, column.get(alias.get(symbol, ""), -1))

    edges = pd.DataFrame({name: network[name].map(position) for name in ("source", "target")})
    edges["sign"] = np.sign(network["weight"].to_numpy(np.float64))
    edges = edges[(edges["source"] >= 0) & (edges["target"] >= 0) & (edges["source"] != edges["target"])]
    summed = edges.groupby(["source", "target"])["sign"].sum().reset_index()
    found = [
        Regulon(genes[tf], int(tf), group["target"].to_numpy(np.int64), np.sign(group["sign"]).to_numpy(np.int8))
        for tf, group in summed.groupby("source")
        if len(group) >= min_targets
    ]
    return sorted(found, key=lambda one: (-len(one.targets), one.tf))


def _network(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the three columns of a network under their own names."""
    lower = {str(column).strip().lower(): column for column in frame}
    where = {want: next((lower[one] for one in names if one in lower), None) for want, names in COLUMNS.items()}
    missing = [want for want, column in where.items() if column is None]
    if missing:
        have = ", ".join(map(str, frame)) or "nothing"
        raise SteerError(
            f"{name} has no column {missing[0]}: a network needs source,target,weight (or tf,target,sign); it has {have}."
        )
    out = pd.DataFrame({want: frame[column] for want, column in where.items()})
    out["weight"] = pd.to_numeric(out["weight"], errors="coerce")
    if not len(out):
        raise SteerError(f"{name} has no edges: give a line source,target,weight for each.")
    if out["weight"].isna().any():
        bad = int(out["weight"].isna().sum())
        raise SteerError(
            f"{name} has {bad} weights that are no numbers, of {len(out)} edges: give 1 (activates) or -1 (represses)."
        )
    return out


def _fetch() -> pd.DataFrame:
    import decoupler  # type: ignore[import-not-found,unused-ignore]

    fetch: Any = decoupler.op.collectri if hasattr(decoupler, "op") else decoupler.get_collectri
    return pd.DataFrame(fetch(organism="human"))
