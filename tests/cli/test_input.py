"""Files as other tools leave them: each is read as it is, or refused with one line that says what to run."""

from __future__ import annotations

import gzip
import json
import logging
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from steerpipe.cli.app import main
from steerpipe.cli.hydra import compose
from steerpipe.config import ContrastConfig, DatasetConfig, TransferConfig
from steerpipe.data import datasets
from steerpipe.data.cells import CellSource
from steerpipe.data.contrast import split_contrast
from steerpipe.data.genes import alias_map, gene_list
from steerpipe.data.labels import find_label
from steerpipe.data.matrices import on_disk
from steerpipe.data.split import test_cells as marked
from steerpipe.digest import file_digest
from steerpipe.errors import SteerError
from steerpipe.past import find_runs

from ..made import called

N = 60


@pytest.fixture
def genes():
    """300 symbols of the list that have an Ensembl id, with it."""
    ids = {symbol: name for name, symbol in alias_map().items() if name.startswith("ENSG")}
    return [(symbol, ids[symbol]) for symbol in gene_list() if symbol in ids][:300]


@pytest.fixture
def counts(genes):
    return sp.csr_matrix(np.random.default_rng(0).poisson(0.7, (N, len(genes))).astype(np.float32))


@pytest.fixture
def plain(counts, genes):
    """Counts in X, symbols in the index: what needs nothing said."""
    obs = pd.DataFrame({"type": ["a", "b"] * (N // 2)}, index=[f"c{i}" for i in range(N)])
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[symbol for symbol, _ in genes]))


def read(adata, tmp_path, genes, name="cells.h5ad", **settings):
    """Write, load and align: (counts in the model's order, the source)."""
    save(adata, tmp_path / name)
    config = DatasetConfig(name="h5ad", path=str(tmp_path / name), label="type", **settings)
    source = CellSource(datasets.load(config), [symbol for symbol, _ in genes], config)
    return source[:].toarray(), source


def save(adata, path):
    if path.is_file():
        path.unlink()  # an earlier one may still be open
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of writing
        (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)


def log1p(adata):
    other = adata.copy()
    other.X = adata.X.log1p()
    return other


def cellxgene(plain, genes):
    """Ensembl index, symbols as a categorical column, X normalised and with fewer genes, counts in raw."""
    var = pd.DataFrame({"feature_name": pd.Categorical([s for s, _ in genes])}, index=[i for _, i in genes])
    whole = anndata.AnnData(plain.X, obs=plain.obs, var=var)
    normal = log1p(whole)
    normal.raw = whole
    return normal[:, :200].copy()


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_raw_is_read_with_its_own_genes_and_the_refusal_of_x_names_it(plain, genes, counts, tmp_path, name):
    adata = cellxgene(plain, genes)
    found, source = read(adata, tmp_path, genes, name, layer="raw")
    np.testing.assert_array_equal(found, counts.toarray())
    assert len(source.valid) == len(genes)
    with pytest.raises(SteerError, match=r"X has fractional values such as .*; dataset.layer=raw would do: it holds counts\."):
        read(adata, tmp_path, genes, "again" + name)


def test_the_refusal_names_every_matrix_that_holds_counts(plain, genes, tmp_path):
    adata = log1p(plain)
    adata.layers["scaled"], adata.layers["umi"], adata.layers["spliced"] = adata.X * 0.5, plain.X, plain.X
    with pytest.raises(SteerError, match=r"dataset.layer=spliced would do: it holds counts \(so do: umi\)\."):
        read(adata, tmp_path, genes)
    for layer in ("scaled", "missing"):
        with pytest.raises(SteerError) as error:
            read(plain_with(plain, scaled=adata.X), tmp_path, genes, layer=layer)
        wanted = "dataset.layer=null would do" if layer == "scaled" else "unknown dataset.layer 'missing'. Allowed: X, scaled"
        assert wanted in str(error.value)
    with pytest.raises(SteerError, match=r"raw counts are needed, in X, raw or a layer; neither does scaled"):
        read(plain_with(log1p(plain), scaled=adata.X), tmp_path, genes)
    empty = plain_with(plain, umi=plain.X)
    empty.X = None
    with pytest.raises(SteerError, match=r"has no X: dataset.layer=umi would do"):
        read(empty, tmp_path, genes)


def plain_with(adata, **layers):
    other = adata.copy()
    for name, matrix in layers.items():
        other.layers[name] = matrix
    return other


def test_a_layer_stays_on_disk(plain, genes, tmp_path):
    adata = plain_with(log1p(plain), umi=plain.X)
    adata.write_h5ad(tmp_path / "x.h5ad")
    loaded = datasets.load(DatasetConfig(name="h5ad", path=str(tmp_path / "x.h5ad"), layer="umi"))
    assert on_disk(loaded.X)
    np.testing.assert_array_equal(loaded.X[5:9].toarray(), plain.X[5:9].toarray())


@pytest.mark.parametrize("column", ["feature_name", "Gene_Name", "gene_symbols", "gene_short_name", "Symbol"])
@pytest.mark.parametrize("kind", ["category", object])
def test_symbols_in_a_column_are_found(plain, genes, counts, tmp_path, column, kind):
    adata = plain.copy()
    adata.var = pd.DataFrame(
        {"n": range(300), column: pd.Series([s for s, _ in genes], dtype=kind).values}, index=[str(i) for i in range(300)]
    )
    found, source = read(adata, tmp_path, genes)
    np.testing.assert_array_equal(found, counts.toarray())
    assert set(source.table["names_from"]) == {column}
    with pytest.raises(SteerError, match=rf"unknown dataset.gene_column 'name'.*Allowed: index, n, {column}"):
        read(adata, tmp_path, genes, gene_column="name")
    with pytest.raises(SteerError, match="0 of 300 gene names match"):
        read(adata, tmp_path, genes, gene_column="index")


def test_the_place_that_matches_most_wins_and_the_index_a_tie(plain, genes, tmp_path):
    adata = plain.copy()
    symbols = [s for s, _ in genes]
    adata.var["gene_name"] = symbols
    adata.var["mine"] = symbols[::-1]
    assert read(adata, tmp_path, genes)[1].names_from == "index"
    adata.var_names = [f"x{i}" if i < 40 else s for i, s in enumerate(symbols)]
    found, source = read(adata, tmp_path, genes, "b.h5ad")
    assert (source.names_from, len(source.valid)) == ("gene_name", 300)
    turned, source = read(adata, tmp_path, genes, "c.h5ad", gene_column="mine")
    assert source.names_from == "mine"
    np.testing.assert_array_equal(turned, found[:, ::-1])
    adata.var_names = [f"{i}.{k % 20}" for k, (_, i) in enumerate(genes)]  # with versions
    adata.var["gene_name"] = [s if i < 100 else "?" for i, s in enumerate(symbols)]
    both, source = read(adata, tmp_path, genes, "d.h5ad")
    np.testing.assert_array_equal(both, found)
    assert len(source.valid) == 300


TYPED = {
    "strings": (["0", "1", "B"], 0, "1"),
    "categories": (pd.Categorical(["0", "1", "B"]), 0, 1),
    "whole": ([0, 1, 2], 0, 1),
    "floats": ([0.0, 1.0, np.nan], 0, 1),
    "truth": ([True, False, True], True, "false"),
    "yes": (["yes", "no", "?"], True, False),
    "leading": (["01", "1e3", "B"], 1, 1000.0),
    "halves": ([0.5, 1.5, 2.0], 0.5, 1.5),
}


@pytest.mark.parametrize("name", TYPED)
def test_every_scalar_is_a_label(name):
    values, source, target = TYPED[name]
    column = pd.Series(values).repeat(40).reset_index(drop=True)
    obs = pd.DataFrame({"type": column})
    split = split_contrast(obs, ContrastConfig(source=source, target=target), DatasetConfig(label="type"))
    sides = [np.sort(cells) for cells in (split.source, split.target)]
    first = np.r_[:40, 80:120] if name == "truth" else np.r_[:40]
    np.testing.assert_array_equal(sides[0], first)
    np.testing.assert_array_equal(sides[1], np.r_[40:80])


def test_lists_mix_and_groups_types_and_typed_words_are_text():
    obs = pd.DataFrame({"type": np.repeat(["0", "B", "no", "True"], 40)})
    words = ["contrast=labels", "dataset=h5ad", "dataset.path=x", "dataset.label=type", "contrast.target=true"]
    config = compose(*words, "contrast.source=[0,B]", "+dataset.groups.2=[0,no]", "transfer.types=[0,true,B]")
    assert config.contrast == ContrastConfig(source=["0", "B"], target="True", seed=0)
    assert config.transfer == TransferConfig(types=["0", "True", "B"])
    split = split_contrast(obs, config.contrast, config.dataset)
    np.testing.assert_array_equal(np.sort(split.source), np.r_[:80])
    grouped = ContrastConfig(source=2, target=True)
    np.testing.assert_array_equal(np.sort(split_contrast(obs, grouped, config.dataset).source), np.r_[:40, 80:120])
    with pytest.raises(SteerError, match=r"contrast.source={'a': 1} is neither a label nor a list"):
        ContrastConfig(source={"a": 1}, target="b")
    with pytest.raises(SteerError, match="share"):
        split_contrast(obs, ContrastConfig(source="true", target=True), config.dataset)


def test_two_spellings_of_one_label_are_not_guessed():
    assert find_label("01", ["1", "01", "1.0"], what="label") == "01"
    with pytest.raises(SteerError, match=r"the label '1e0' could be any of 1, 01; quote"):
        find_label("1e0", ["1", "01", "B"], what="label")
    with pytest.raises(SteerError, match=r"unknown label '3'.*Allowed: T, 1, B"):
        find_label("3", ["1", "B"], what="label", also=["T"])


@pytest.mark.parametrize("marks", [[True, False], [1, 0], [1.0, 0.0], ["test", "Train"], ["yes", "no"]])
def test_a_column_of_any_truth_marks_the_test_cells(marks):
    obs = pd.DataFrame({"mine": pd.Series(marks * 5)})
    np.testing.assert_array_equal(marked(obs, DatasetConfig(test="mine")), [True, False] * 5)


@pytest.mark.parametrize("dense", [False, True])
def test_noise_below_a_thousandth_is_rounded_and_said_once(plain, genes, counts, tmp_path, caplog, dense):
    caplog.set_level(logging.INFO, logger="steerpipe")
    noisy, rng = plain.copy(), np.random.default_rng(1)
    if dense:
        noisy.X = counts.toarray() + rng.uniform(-9e-4, 9e-4, counts.shape).astype(np.float32)  # of zeros, too
    else:
        noisy.X.data += rng.uniform(-9e-4, 9e-4, counts.nnz).astype(np.float32)
    found, _ = read(noisy, tmp_path, genes)
    np.testing.assert_array_equal(found, counts.toarray())
    memory, _ = read(noisy, tmp_path, genes, max_cells=40)
    assert np.array_equal(memory, np.rint(memory))
    assert sum("off whole numbers" in line for line in caplog.messages) == 1
    noisy.X[3, 5] = 1.002
    with pytest.raises(SteerError, match=r"fractional values such as 1\.002"):
        read(noisy, tmp_path, genes, "b.h5ad")


def test_small_shares_are_no_noise(plain, genes, tmp_path):
    shares = plain.copy()
    shares.X = sp.csr_matrix(plain.X / plain.X.sum(axis=1) / 50)
    assert shares.X.max() < 1e-3
    with pytest.raises(SteerError, match="fractional values"):
        read(shares, tmp_path, genes)


@pytest.mark.parametrize("dense", [False, True])
def test_a_zarr_store_reads_as_a_file_does_and_its_digest_is_that_of_what_it_holds(plain, genes, counts, tmp_path, dense):
    adata = plain.copy()
    if dense:
        adata.X = counts.toarray()
    found, source = read(adata, tmp_path, genes, "a.zarr")
    assert on_disk(source._X)
    np.testing.assert_array_equal(found, counts.toarray())
    np.testing.assert_array_equal(source[np.array([3, 8, 41])].toarray(), counts[[3, 8, 41]].toarray())
    assert read(adata, tmp_path, genes, "a.zarr", max_cells=40)[0].shape[0] == 40
    save(adata, tmp_path / "same.zarr")
    before = file_digest(tmp_path / "a.zarr")
    assert before == file_digest(tmp_path / "same.zarr")
    part = next(file for file in sorted((tmp_path / "a.zarr" / "obs").rglob("*")) if file.is_file())
    part.write_bytes(part.read_bytes() + b"x")
    assert before != file_digest(tmp_path / "a.zarr")


def zipped(tmp_path):
    with gzip.open(tmp_path / "x.h5ad.gz", "wb") as file:
        file.write(b"any")
    return "x.h5ad.gz"


def empty_zarr(tmp_path):
    zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    return "x.zarr"


def tenx(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("matrix")
    return "x.h5"


def folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "matrix.mtx.gz").touch()
    return "x"


def named(name):
    def make(tmp_path):
        (tmp_path / name).write_text("a,b\n1,2\n")
        return name

    return make


@pytest.mark.parametrize(
    ("make", "repair"),
    [
        (zipped, "run: gunzip -k {tmp}/x.h5ad.gz, then dataset.path={tmp}/x.h5ad"),
        (empty_zarr, "a folder that AnnData.write_zarr made"),
        (tenx, "scanpy.read_10x_h5('{tmp}/x.h5').write_h5ad('my.h5ad')"),
        (folder, "scanpy.read_10x_mtx('{tmp}/x')"),
        (named("x.rds"), "zellkonverter::writeH5AD"),
        (named("x.loom"), "scanpy.read_loom('{tmp}/x.loom')"),
        (named("x.mtx"), "scanpy.read_10x_mtx('{tmp}')"),
        (named("x.csv"), "pandas.read_csv('{tmp}/x.csv'"),
        (named("x.zarr.zip"), "unpack it"),
        (named("x.h5ad"), "is the file complete?"),
    ],
)
def test_files_of_another_kind_say_what_to_run(tmp_path, make, repair):
    path = tmp_path / make(tmp_path)
    with pytest.raises(SteerError) as error:
        datasets.load(DatasetConfig(name="h5ad", path=str(path)))
    assert repair.format(tmp=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_names_that_repeat_are_said_in_a_line_of_ours(plain, genes, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="steerpipe")
    symbols = plain.var_names.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain.var_names, plain.obs_names = [*symbols[:-3], *symbols[:3]], ["c"] * N
        plain.write_h5ad(tmp_path / "x.h5ad")
    config = DatasetConfig(name="h5ad", path=str(tmp_path / "x.h5ad"), label="type")
    for cells in (None, 40):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config.max_cells = cells
            CellSource(datasets.load(config), symbols, config)
    assert "59 cell names repeat" in caplog.text
    assert "3 names in the index of var repeat" in caplog.text


def test_a_failed_job_of_a_sweep_leaves_its_reason_and_the_others_run_on(tmp_path, monkeypatch, capfd):
    from steerpipe.commands import fit

    def stage(pipeline, run):
        config = pipeline.config
        if config.seed == 1 and config.lam.value == 0.2:
            raise SteerError("no such thing.")
        if config.seed == 1 and config.lam.value == 0.3:
            raise ZeroDivisionError("a defect")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(fit, "main", stage)
    assert called("fit", "-m", "debug=small", "lambda.value=0.2,2,0.3", "seed=0,1") == 1
    said = capfd.readouterr().err
    last = said[said.index("steer: ") :].splitlines()
    assert last[0].startswith("steer: 4 of 6 jobs failed; the others are done")
    assert last[1] == "  job 1 (lambda.value=0.2 seed=1): no such thing."
    assert last[2].startswith("  job 2 (lambda.value=2 seed=0): lambda.value=2.0 is a share of lambda_max")
    assert last[4] == "  job 5 (lambda.value=0.3 seed=1): ZeroDivisionError: a defect"
    assert "Error executing job" not in said
    runs = {run.path.name: run.manifest for run in find_runs(tmp_path / "outputs")}
    assert [runs[str(i)]["status"] for i in range(6)] == ["done", "failed", "failed", "failed", "done", "failed"]
    with pytest.raises(SystemExit):
        main(["runs", "status=failed", "--json"])
    assert ["lambda.value=2.0 is a share" in row["error"] for row in json.loads(capfd.readouterr().out)] == [
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(SystemExit):
        main(["runs"])
    assert "no such thing." in capfd.readouterr().out
