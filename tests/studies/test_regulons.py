"""Networks of TFs and targets: files, names, and what of them a panel has."""

from __future__ import annotations

import gzip
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from steerpipe.data.genes import alias_map
from steerpipe.data.regulons import find_regulons, load_regulons
from steerpipe.errors import SteerError

HEADER = "source,target,weight\n"
CSV = HEADER + "SPI1,CD4,1\nSPI1,LYZ,-0.5\nSPI1,SPI1,1\nSPI1,NOTAGENE,1\nJUN,CD4,1\nJUN,CD4,-1\nJUN,CD3D,1\nJUN,CD3D,1\n"
PANEL = ["LYZ", "JUN", "CD3D", "SPI1", "CD4"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.csv"
    path.write_text(CSV)
    return path


def test_regulons_of_a_panel(file):
    jun, spi1 = find_regulons(load_regulons(str(file)), PANEL, min_targets=2)
    assert (jun.tf, jun.column, jun.targets.tolist(), jun.signs.tolist()) == (
        "JUN",
        1,
        [2, 4],
        [1, 0],
    )  # sources disagree on CD4
    assert (spi1.tf, spi1.column, spi1.targets.tolist(), spi1.signs.tolist()) == ("SPI1", 3, [0, 4], [-1, 1])
    assert find_regulons(load_regulons(str(file)), PANEL, min_targets=3) == []


def test_packed_and_under_other_names(file, tmp_path):
    packed = tmp_path / "net.csv.gz"
    packed.write_bytes(gzip.compress(CSV.replace("source,target,weight", "TF, target,sign").encode()))
    pd.testing.assert_frame_equal(load_regulons(str(packed)), load_regulons(str(file)))


def test_genes_are_found_by_their_current_symbol_too(file):
    current, listed = next((new, old) for new, old in alias_map().items() if not new.startswith("ENSG"))
    file.write_text(f"source,target,weight\nJUN,{current},1\n")
    (found,) = find_regulons(load_regulons(str(file)), ["JUN", listed])
    assert found.targets.tolist() == [1]


def test_a_gene_that_is_called_na_is_no_missing_value(file):
    file.write_text("source,target,weight\nNA,CD4,1\n")
    assert load_regulons(str(file))["source"].tolist() == ["NA"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tf,gene,sign\nA,B,1\n",
            r"no column target: a network needs source,target,weight \(or tf,target,sign\); it has tf, gene",
        ),
        ("source,target,weight\nA,B,up\nC,D,1\n", "has 1 weights that are no numbers, of 2 edges: give 1"),
        ("source,target,weight\n", "has no edges"),
        ("", "cannot be read as CSV"),
    ],
)
def test_files_that_are_no_network(file, text, message):
    file.write_text(text)
    with pytest.raises(SteerError, match=message) as error:
        load_regulons(str(file))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there():
    with pytest.raises(SteerError, match=r"regulation.regulons=no.csv is no file .* give a CSV of source,target,weight"):
        load_regulons("no.csv")


def test_collectri_is_read_from_the_data_folder_else_by_decoupler(file, tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "decoupler", None)  # not installed
    with pytest.raises(SteerError, match=r"collectri.csv nor to be had by decoupler .*set STEER_DATA"):
        load_regulons("collectri")
    table = pd.read_csv(file).assign(resources="x")
    for module in (
        SimpleNamespace(op=SimpleNamespace(collectri=lambda organism: table)),
        SimpleNamespace(get_collectri=lambda organism: table),
    ):
        monkeypatch.setitem(sys.modules, "decoupler", module)
        assert load_regulons("collectri").columns.tolist() == ["source", "target", "weight"]
    (tmp_path / "genesets").mkdir()
    (tmp_path / "genesets" / "collectri.csv").write_text("source,target,weight\nJUN,CD4,1\n")
    assert len(load_regulons("collectri")) == 1
