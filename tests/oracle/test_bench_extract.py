"""`make bench-extract`, small and in one process: it runs, its figures are there, and it notices outputs that differ."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

pytest.importorskip("modelgenerator", reason="make oracle has it")

from benchmarks import extract

pytestmark = pytest.mark.oracle
SMALL = {"tokens": 70, "repeats": 1, "layer": 3, "fit_tokens": 20, "fit_cells": 2, "fit_repeats": 1}


@pytest.fixture
def in_process(monkeypatch):
    """Workers as calls: nine processes would spend a minute on imports."""

    def spawn(worker, options, folder):
        return extract.work(argparse.Namespace(**vars(options) | {"worker": worker, "folder": folder}))

    monkeypatch.setattr(extract, "spawn", spawn)
    monkeypatch.setattr(extract, "FIT_SIZES", (32, 18, 2, 48))
    yield
    torch.set_float32_matmul_precision("highest")


def test_a_small_run_prints_its_figures_last(in_process, capsys):
    assert extract.main(argparse.Namespace(**SMALL)) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["outputs_agree"]
    assert set(figures["extract"]) == set(extract.VARIANTS)
    for variant, row in figures["extract"].items():
        assert row["seconds"] > 0
        assert row["peak_mb"] > 100
        assert row["largest_difference"] <= 1e-4 or "medium" in variant
    fit = figures["fit"]
    assert len(fit["steps_per_second"]) == 6
    for way in extract.WAYS:
        assert fit["largest_relative_difference"][f"{way}, highest"] <= 1e-4


def test_the_largest_difference_is_over_both_outputs(tmp_path):
    for name, stream, logits in (("published", 0.0, 0.0), ("a", 0.25, -0.5), ("b", -0.25, None)):
        np.save(tmp_path / f"{name}.stream.npy", np.full(3, stream))
        if logits is not None:
            np.save(tmp_path / f"{name}.logits.npy", np.array([0.0, logits]))
    assert [extract.compare(tmp_path, name) for name in ("published", "a", "b")] == [0, 0.5, 0.25]
