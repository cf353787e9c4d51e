"""The benchmarks find what they measure; what they keep on disk is not taken for figures of other weights."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from benchmarks import run
from benchmarks.sae import tokens


def test_tokens_of_other_weights_are_made_anew(tmp_path, monkeypatch):
    file = tmp_path / "real.npz"
    assert not tokens.current(file)
    np.savez(file, train=np.zeros(3))  # as made before weights were recorded
    assert not tokens.current(file)
    np.savez(file, train=np.zeros(3), model=np.array(tokens.weights()))
    assert tokens.current(file)
    monkeypatch.setattr(tokens, "weights", lambda: "others")
    assert not tokens.current(file)


MADE = ("sae.planted", "sae.settings", "sae.tokens")
NAMES = ("annotate", "browse", "circuits", "extract", "fit", "manifold", "mini", "models", "run", "tiny_models", *MADE)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_one_of_this_package(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_the_run_benchmark_measures_a_command_and_says_what_one_that_fails_had_to_say(tmp_path):
    cost = run.steer(run.ROOT, ["--help"], tmp_path)
    assert 0 < cost.cpu < 60
    assert cost.peak > 10
    with pytest.raises(RuntimeError, match="no runs in outputs"):
        run.steer(run.ROOT, ["show", "last"], tmp_path)
