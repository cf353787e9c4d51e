"""The benchmarks find what they measure; what they keep on disk is not taken for figures of other weights."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

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


NAMES = (
    *("annotate", "browse", "circuits", "extract", "fit", "manifold", "mini", "models", "tiny_models"),
    *("sae.planted", "sae.settings", "sae.tokens"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_is_one_of_this_package(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__
