"""The feature graph on planted modules."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from steerpipe.interpret import graph as module
from steerpipe.interpret.graph import components, find_modules, name_modules, ochiai_graph


def as_sets(rows, genes=60):
    table = np.zeros((len(rows), genes), np.int32)
    for i, row in enumerate(rows):
        table[i, list(row)] = 1
    return sp.csr_matrix(table)


def test_ochiai_is_its_definition(rng, monkeypatch):
    table = (rng.random((40, 30)) < 0.3).astype(np.int32)
    table[5] = 0
    monkeypatch.setattr(module, "ROWS", 7)
    graph = ochiai_graph(sp.csr_matrix(table), 0.3).toarray()
    for i in range(40):
        for j in range(40):
            a, b = table[i].sum(), table[j].sum()
            value = (table[i] & table[j]).sum() / np.sqrt(a * b) if a and b and i != j else 0.0
            assert graph[i, j] == (pytest.approx(value) if value >= 0.3 else 0)


def test_planted_modules_are_found_and_named():
    small, pair, large = [range(0, 10)] * 3, [range(20, 30)] * 2, [range(40, 50)] * 4
    sets = as_sets([*small, *pair, range(30, 40), *large])
    found = components(ochiai_graph(sets))
    assert found.tolist() == [1, 1, 1, -1, -1, -1, 0, 0, 0, 0]
    pairs = pd.DataFrame({"feature": [6, 7, 8, 6, 7, 8, 9, 0], "term_index": [2, 2, 2, 1, 1, 1, 0, 0]})
    pairs["term"] = pairs["term_index"].map({0: "broad", 1: "killing", 2: "narrow killing"})
    modules = name_modules(found, sets, [f"G{i}" for i in range(60)], pairs, np.array([1.0, 3.0, 4.0]))
    assert modules["name"].tolist() == ["narrow killing", "broad"]
    assert modules["share"].tolist() == [0.75, pytest.approx(1 / 3)]
    assert modules["n_features"].tolist() == [4, 3]
    assert modules["genes"][0].startswith("G40, G41")


def test_modules_cut_up_a_chain_of_planted_groups():
    """Two groups that share a bridge are one component and two modules."""
    sets = as_sets([*[range(0, 12)] * 6, range(6, 18), *[range(12, 24)] * 5])
    graph = ochiai_graph(sets)
    assert set(components(graph)) == {0}
    found = find_modules(graph)
    assert found[:6].tolist() == [0] * 6
    assert found[7:].tolist() == [1] * 5


def test_no_modules():
    assert components(ochiai_graph(as_sets([range(3), range(5, 9)]))).tolist() == [-1, -1]
    assert name_modules(np.array([-1, -1]), as_sets([[1], [2]]), [], pd.DataFrame(), np.zeros(0)).empty
