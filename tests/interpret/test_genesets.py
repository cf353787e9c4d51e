"""Gene-set libraries and the shipped ontology."""

from __future__ import annotations

import gzip
import math
import sqlite3

import numpy as np
import pytest

from scripts import build_gene_ontology as builder
from steerpipe.data import genesets, ontology
from steerpipe.data.genes import alias_map
from steerpipe.data.genesets import load_library, local_file, read_gmt
from steerpipe.errors import SteerError

GMT = "first set\tGO:0006955\tCD8A\tGZMB,1.0\n\nsecond (GO:0008150)\t\tPTPRC\tNOTAGENE\n"


def test_the_shipped_sets_are_the_direct_annotation_carried_up():
    shipped, propagated = load_library("go_bp"), ontology.propagated_annotation()
    assert len(shipped) == 6482
    assert all(propagated[term] == genes for term, genes in zip(shipped.ids, shipped.genes, strict=True))
    assert sum(10 <= len(genes) <= 500 for genes in propagated.values()) == 6482
    assert shipped.terms[0] == "mitochondrial genome maintenance"
    assert all(genes <= propagated[term] for term, genes in ontology.direct_annotation().items() if term in propagated)


def test_information_content():
    content, sizes = ontology.information_content(), ontology.propagated_sizes()
    assert content[ontology.ROOT] == 0
    assert content["GO:0019886"] == pytest.approx(math.log(sizes[ontology.ROOT] / sizes["GO:0019886"]))
    edges = [(child, parent) for child, parent, _ in ontology.rows("go_bp_edges.tsv.gz") if parent in content]
    assert all(content[child] >= content[parent] for child, parent in edges if child in content)
    assert load_library("go_bp").information.min() > 3


def test_any_gmt_file(tmp_path):
    plain, packed = tmp_path / "a.gmt", tmp_path / "b.gmt.gz"
    plain.write_text(GMT)
    packed.write_bytes(gzip.compress(GMT.encode()))
    for path in (plain, packed):
        found = load_library(str(path))
        assert found.terms == ("first set", "second (GO:0008150)")
        assert found.genes[0] == {"CD8A", "GZMB"}
        assert found.information[1] == 0  # the id is found in the name, too
    np.testing.assert_array_equal(read_gmt(plain).matrix(["GZMB", "CD4", "CD8A"]).toarray(), [[1, 0, 1], [0, 0, 0]])
    assert local_file(str(plain)) == plain
    assert local_file("go_bp") is None


def test_genes_are_found_by_their_current_symbol_too():
    current, listed = next((new, old) for new, old in alias_map().items() if not new.startswith("ENSG"))
    found = genesets.GeneSets("x", ("s",), ("",), (frozenset({current, "CD8A"}),))
    assert found.matrix([listed, "CD8A"]).toarray().tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("go_pb", "did you mean 'go_bp'"),
        ("sets/none.gmt", "does not exist"),
        ("hallmark", r"neither at .*human_hallmark_v2025.gmt nor"),
        ("enrichr:Some_Library", r"neither at .*enrichr.Some_Library.gmt.gz nor"),
    ],
)
def test_mistakes_name_the_file(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_DATA", str(tmp_path))

    def offline(name):
        raise ConnectionError

    monkeypatch.setattr(genesets, "_fetch", offline)
    with pytest.raises(SteerError, match=message):
        load_library(name)


def test_a_file_that_is_no_gmt(tmp_path):
    (tmp_path / "x.gmt").write_text("only a name\n")
    with pytest.raises(SteerError, match="no GMT file"):
        load_library(str(tmp_path / "x.gmt"))
    (tmp_path / "y.gmt.gz").write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(SteerError, match="cannot be read as GMT"):
        load_library(str(tmp_path / "y.gmt.gz"))


@pytest.mark.data
@pytest.mark.parametrize(("name", "n"), [("hallmark", 50), ("reactome", 1787), ("enrichr:GO_Biological_Process_2021", 6036)])
def test_local_libraries(name, n):
    found = load_library(name)
    assert len(found) == n
    assert found.name == name
    assert local_file(name) is not None


def test_the_builder_on_a_small_ontology(monkeypatch):
    """Three genes; B is a part of A; the file's rows are what the two databases say."""
    org, go = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    org.executescript("""
        CREATE TABLE genes (_id, gene_id); CREATE TABLE gene_info (_id, symbol);
        CREATE TABLE go_bp (_id, go_id, evidence); CREATE TABLE go_bp_all (_id, go_id, evidence);
        INSERT INTO genes VALUES (1, '20'), (2, '3'); INSERT INTO gene_info VALUES (1, 'X'), (2, 'Y');
        INSERT INTO go_bp VALUES (1, 'B', 'IDA'), (2, 'A', 'IEA');
        INSERT INTO go_bp_all VALUES (1, 'B', 'IDA'), (1, 'A', 'IDA'), (2, 'A', 'IEA'), (2, 'A', 'TAS');
    """)
    go.executescript("""
        CREATE TABLE go_term (_id, go_id, term, ontology); CREATE TABLE go_bp_parents (_id, _parent_id, relationship_type);
        INSERT INTO go_term VALUES (1, 'B', 'b', 'BP'), (2, 'A', 'a', 'BP'), (3, 'M', 'm', 'MF');
        INSERT INTO go_bp_parents VALUES (1, 2, 'part of');
    """)
    monkeypatch.setattr(builder, "SIZES", range(2, 5))
    files = builder.build(org, go)
    assert files["go_bp_propagated.gmt.gz"] == ["a\tA\tX\tY"]
    assert files["go_bp_direct.tsv.gz"][1:] == ["Y\t3\tA\tIEA", "X\t20\tB\tIDA"]
    assert files["go_bp_edges.tsv.gz"][1:] == ["B\tA\tpart of"]
    assert files["go_bp_terms.tsv.gz"][1:] == ["A\ta", "B\tb"]
    assert builder.packed(["x"]) == builder.packed(["x"])
