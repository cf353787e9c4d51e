"""`steer` as a process of its own, on a tiny model and few cells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ["debug=small", "dataset.max_cells=150", "layer=1", "model=local"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def steer(workdir, tiny_folder):
    def call(*words, ok=True, cwd=workdir, **extra):
        words = [f"model.path={tiny_folder}" if w == "model.path" else w for w in words]
        command = [str(Path(sys.executable).parent / "steer"), *words]
        env = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | extra
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    return call


def small(*words):
    return [*words, *SMALL, "model.path"]
