"""The keys of what is kept: stores that exist stay valid, until a step's VERSION says that its meaning has changed."""

from __future__ import annotations

import logging

import pytest

from steerpipe.cli.app import main
from steerpipe.pipeline import activations

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
    "activity": {"62f3d30ed8a27698"},
    "annotate": {"918b5ec927f3077d"},
    "codes": {"33eeb2eea5fd68e2"},
    "expression-path": {"a50b77969aabf3c2", "a5af5e7d91ea6211"},
    "extract": {"2bfcfb38c9d2e68d"},
    "feature-stability": {"619e7f385e7d9ba3", "760af3014cbe97a3"},
    "fit": {"43799244952633a5", "6705f956dd9c013c", "dc0612379b1543fb"},
    "gene-expression": {"dbe6da731882ad47"},
    "null": {"d7e905af158ca076"},
    "null-scores": {"e225b654e13cec57"},
    "recurrence": {"1b4cc17151af87f5"},
    "score": {"84176787c61ec854"},
    "scores": {"1fb6eff31a3069ea"},
    "stability": {"a79c1e8e0f2acd6d"},
    "streams": {"e12533e11c4768d7"},
    "train-sae": {"3029afbcf3081ec7", "a729d2f4eef06f62"},
}


@pytest.mark.slow
def test_keys_are_what_they_were(tiny_folder, tmp_path, monkeypatch):
    """The model's digest is held, so that no key depends on a number that was computed."""
    monkeypatch.setattr(activations, "model_digest", lambda *_: "tiny")
    kept, level = logging.root.handlers[:], logging.root.level
    for words in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([*words, *SMALL, f"model.path={tiny_folder}", f"outputs={tmp_path}", "-q"])
        for handler in set(logging.root.handlers) - set(kept):
            handler.close()
        logging.root.handlers = kept[:]
        logging.root.setLevel(level)
        assert end.value.code == 0
    found: dict[str, set[str]] = {}
    for record in (tmp_path / ".store").glob("*/*/artefact.json"):
        found.setdefault(record.parent.parent.name, set()).add(record.parent.name)
    assert found == KEYS
