"""The matrices of an AnnData (X, its layers, raw), in memory or in a file, where they stay until rows are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from anndata.io import read_elem, sparse_dataset

from ..errors import SteerError, unknown

RAW = "raw"
CONVERT = {
    (".gz",): "is compressed; run: gunzip -k {path}, then dataset.path={stem}",
    (".bz2", ".xz", ".zst"): "is compressed; unpack it, then dataset.path={stem}",
    (".zip", ".tar", ".tgz"): "is an archive; unpack it, then dataset.path is the .h5ad file or the .zarr folder inside",
    (".rds", ".rdata", ".h5seurat", ".qs"): "is an R object; in R: zellkonverter::writeH5AD(x, 'my.h5ad'), where x is a "
    "SingleCellExperiment (of a Seurat object: Seurat::as.SingleCellExperiment)",
    (".loom",): "is no AnnData file; in Python: scanpy.read_loom('{path}').write_h5ad('my.h5ad')",
    (".h5",): "is no AnnData file; of 10x, in Python: scanpy.read_10x_h5('{path}').write_h5ad('my.h5ad')",
    (".h5mu",): "is a MuData file; in Python: mudata.read('{path}').mod['rna'].write_h5ad('my.h5ad')",
    (".mtx",): "is one matrix; in Python: scanpy.read_10x_mtx('{parent}').write_h5ad('my.h5ad')",
    (".csv", ".tsv", ".txt"): "is a text table; in Python: anndata.AnnData(pandas.read_csv('{path}', index_col=0, sep=None, "
    "engine='python')).write_h5ad('my.h5ad'), with .T before .write_h5ad where its rows are genes",
}
"""What to run on a file of another kind, by the end of its name."""


@dataclass(frozen=True)
class Matrices:
    """What an AnnData offers to read counts from.

    Attributes
    ----------
    obs : labels, one row a cell
    tables : {X, the layers' names, raw: (matrix (N, n_vars), its var)}; matrices of files are on disk. A layer that is
        named raw goes before the AnnData's own raw
    """

    obs: pd.DataFrame
    tables: Mapping[str, tuple[Any, pd.DataFrame]]

    @classmethod
    def of(cls, adata: AnnData) -> Matrices:
        """Return those of an AnnData in memory, or backed; nothing is copied."""
        own = {} if adata.raw is None else {RAW: (adata.raw.X, adata.raw.var)}
        first = {} if adata.X is None else {"X": (adata.X, adata.var)}
        return cls(adata.obs, first | own | {name: (matrix, adata.var) for name, matrix in adata.layers.items()})

    def pick(self, layer: str | None, rows: np.ndarray | None = None) -> AnnData:
        """Return one of them as an AnnData's X, with its own var: X (None), a layer, or raw; all rows, or some, read at once.

        Raises
        ------
        SteerError
            There is none of that name; the message says which there are.
        """
        name = layer or "X"
        if name not in self.tables:
            raise unknown("dataset.layer" if layer else "matrix", name, list(self.tables), repair="Set dataset.layer.")
        matrix, var = self.tables[name]
        obs = self.obs
        if rows is not None:
            matrix, obs = take(matrix, rows), obs.iloc[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that repeat: said by the loader, in a line of its own
            return AnnData(matrix, obs=obs.copy(), var=var.copy())


def on_disk(matrix: Any) -> bool:
    """Return whether a matrix is read from a file when rows are asked for."""
    return not (sp.issparse(matrix) or isinstance(matrix, np.ndarray))


def take(matrix: Any, rows: Any) -> Any:
    """Return rows of a matrix, in memory or not: a slice, or ascending positions."""
    dense = getattr(matrix, "oindex", None)  # a zarr array takes positions here alone
    return dense[rows] if dense is not None and not isinstance(rows, slice) else matrix[rows]


def open_file(path: Path) -> Matrices:
    """Open an .h5ad file or a .zarr folder; labels and gene tables are read, the matrices stay on disk.

    Raises
    ------
    SteerError
        There is nothing at the path, it is broken, or it is of another kind: the message says what to run.
    """
    if not path.exists():
        raise SteerError(f"dataset.path={path} does not exist (working folder: {Path.cwd()}).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats and names that repeat
            return _read(path, _root(path))
    except Exception as error:  # h5py, zarr and anndata raise many types for a broken file
        line = " ".join(str(error).split())[:200]
        raise SteerError(_repair(path) or f"{path} cannot be read as {_broken(path, line)}") from error


def _root(path: Path) -> Any:
    if path.is_file():
        return h5py.File(path)
    import zarr

    return zarr.open_group(str(path), mode="r")


def _read(path: Path, root: Any) -> Matrices:
    if path.is_file() and "encoding-type" not in root["obs"].attrs:  # before anndata 0.7: it knows how
        return Matrices.of(read_h5ad(path, backed="r"))
    places = {"X": "X", RAW: "raw/X", **{name: f"layers/{name}" for name in root.get("layers", ())}}
    tables = {RAW: read_elem(root["raw/var"])} if "raw/X" in root else {}
    var = read_elem(root["var"])
    found = {
        n: (_lazy(root[where]), tables.get(n, var) if where == "raw/X" else var) for n, where in places.items() if where in root
    }
    return Matrices(read_elem(root["obs"]), found)


def _lazy(element: Any) -> Any:
    return element if hasattr(element, "shape") else sparse_dataset(element)


def _repair(path: Path) -> str | None:
    """The line for a file of another kind, by its name; None for one that should be readable."""
    if path.is_dir():
        if any(path.glob("*.mtx*")):
            return (
                f"{path} is a folder of a matrix market file; in Python: scanpy.read_10x_mtx('{path}').write_h5ad('my.h5ad')."
            )
        return None
    for ends, line in CONVERT.items():
        if path.name.lower().endswith(ends):
            return f"{path} {line.format(path=path, stem=path.with_suffix(''), parent=path.parent)}."
    return None


def _broken(path: Path, line: str) -> str:
    if path.is_dir():
        return f"a zarr store ({line}); dataset.path takes an .h5ad file, or a folder that AnnData.write_zarr made."
    return f".h5ad ({line}); is the file complete? Copy or write it again."
