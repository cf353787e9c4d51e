"""SIGKILL at any moment: never a half artefact, and the next run ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CONFIG = {
    "debug": "small",
    "model": "local",
    "layer.index": 1,
    "dataset.max_cells": 90,
    "extract.shard_tokens": 3000,
    "contrast": "labels",
    "contrast.source": "Dendritic",
    "contrast.target": "CD14+ Monocyte",
    "sae.tokens": 16_000,
    "sae.batch_size": 64,
    "evaluate.markers": "[CD4]",
    "device": "cpu",
}


@pytest.mark.parametrize("stage", ["extract", "train-sae", "fit"])
@pytest.mark.parametrize("points", [pytest.param(3, id="3"), pytest.param(14, id="14", marks=pytest.mark.slow)])
def test_killed_at_any_file_operation(tmp_path, tiny_folder, stage, points):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model.path": str(tiny_folder)}))
    command = [sys.executable, "-m", "tests.pipeline.kill_points", str(tmp_path / "w"), str(tmp_path / "config.json"), stage]
    env = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([*command, str(points)], capture_output=True, text=True, env=env, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) >= min(points, rows[0]["of"]) >= 3
    for row in rows:
        assert row["killed"], row
        assert not row["half"], row
        assert row["resumed"], row
        assert row["same"], row
        assert not row["litter"], row
    print(f"{stage}: {len(rows)} kill points of {rows[0]['of']} file operations")
