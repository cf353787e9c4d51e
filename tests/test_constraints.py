"""The environments: the same versions wherever two have a package, so that what is shipped is what is compared."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
OTHER = {"huggingface_hub", "tokenizers", "transformers"}
"""The packages compared with need transformers 4, and that a hub client older than ours; Geneformer runs on transformers 5."""


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_other_trainers_run_on_the_torch_that_is_shipped():
    ours, peers = pins("constraints.txt"), pins("constraints-peers.txt")
    shared = (ours.keys() & peers.keys()) - OTHER
    assert {"torch", "numpy", "numba", "scipy", "safetensors", "pytest"} <= shared
    assert {name: peers[name] for name in shared} == {name: ours[name] for name in shared}
    assert {"eai-sparsify", "dictionary-learning", "sae-lens"} <= peers.keys()


def test_shared_packages_have_one_version():
    ours, oracle = pins("constraints.txt"), pins("constraints-oracle.txt")
    shared = (ours.keys() & oracle.keys()) - OTHER
    assert {"torch", "numpy", "scipy", "pandas", "anndata", "safetensors", "pytest"} <= shared
    assert {name: oracle[name] for name in shared} == {name: ours[name] for name in shared}
    assert oracle["torch"] == "2.13.0"
    assert oracle["modelgenerator"] == "0.1.3.post0"
    assert oracle["transformers"].startswith("4.")
