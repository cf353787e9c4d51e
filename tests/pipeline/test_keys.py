"""The keys of what is kept: stores that exist stay valid, until a step's VERSION says that its meaning has changed."""

from __future__ import annotations

import pytest

from steerpipe.pipeline import activations

from ..made import called

COMMANDS = (
    ["train-sae", "score.baselines=false", "score.cells=0"],
    ["annotate", "annotate.baselines=false", "annotate.min_size=3"],
    ["fit"],
    ["fit", "objective=expression", "objective.max_cells=2", "objective.max_steps=1", "lambda.value=0.5"],
    ["pareto", "pareto.weights=[0.5]", "objective.max_cells=2", "objective.max_steps=1", "lambda.value=0.5"],
    ["stability", "stability.gene_sets=false"],
)
SMALL = ("debug=small", "model=local", "layer=1", "dataset.max_cells=150", "sae.tokens=4096", "evaluate.n_permutations_model=1")
KEYS = {
    "activity": {"38c7418eac7a5874"},
    "annotate": {"f93eaa1ea63acda9"},
    "codes": {"fa7975f7877480e9"},
    "expression-path": {"0a911d5b4a158492", "8e552bc48079c5a9"},
    "extract": {"2bfcfb38c9d2e68d"},
    "feature-stability": {"42f9900cfe201003", "75a55dac0c23b380"},
    "fit": {"0999d7ccc14ee73d", "ece282a727833734", "f61ca223d5bc1f1e"},
    "gene-expression": {"dbe6da731882ad47"},
    "null": {"7adb5d6647fb53b4"},
    "null-scores": {"c832585386a13fee"},
    "recurrence": {"78733389ffd63708"},
    "score": {"34fb32e66e5044b2"},
    "scores": {"66a72c2000159a35"},
    "stability": {"05e03a31e722c7ec"},
    "streams": {"e12533e11c4768d7"},
    "train-sae": {"480dac40c706315d", "a942a55e95ae9748"},
}


@pytest.mark.slow
def test_keys_are_what_they_were(tiny_folder, tmp_path, monkeypatch):
    """The model's digest is held, so that no key depends on a number that was computed."""
    monkeypatch.setattr(activations, "model_digest", lambda *_: "tiny")
    for words in COMMANDS:
        assert called(*words, *SMALL, f"model.path={tiny_folder}", f"outputs={tmp_path}", "-q") == 0
    found: dict[str, set[str]] = {}
    for record in (tmp_path / ".store").glob("*/*/artefact.json"):
        found.setdefault(record.parent.parent.name, set()).add(record.parent.name)
    assert found == KEYS
