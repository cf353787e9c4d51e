"""Every Python block of docs/python.md, run in order, on a tiny model and few cells."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import steerpipe as sp

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
SMALLER = {
    '"mini"': "TINY",
    "pbmc68k_reduced()": "pbmc68k_reduced()[::3].copy()",
    "layer=4": "layer=1",
    "n_permutations=50, n_permutations_model=5": "n_permutations=3, n_permutations_model=1, n_random=1, n_bootstrap=20",
    "expansion=2": "expansion=2, tokens=50_000",
}
"""What the page writes, and what only makes it fast."""


def test_the_page_runs(tiny_folder, commands, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").symlink_to(commands)
    code = "\n".join(BLOCKS)
    for said, small in SMALLER.items():
        assert said in code
        code = code.replace(said, small)
    names: dict[str, object] = {"TINY": tiny_folder}
    exec(compile(code, "docs/python.md", "exec"), names)
    assert (tmp_path / "my_sae" / "cfg.json").is_file()
    assert np.count_nonzero(names["recipe"].theta)
    steered, table = names["steered"], names["table"]
    assert set(steered.layers) == {"before", "after"}
    assert "latent" in set(table["recipe"])


def test_the_page_shows_every_function():
    functions = {name for name in sp.__all__ if name.islower()}
    assert functions == set(re.findall(r"sp\.(\w+)\(", "\n".join(BLOCKS)))
