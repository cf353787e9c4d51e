"""Every command on the pages, run for real on a tiny model; those that need a GPU, a network or more data say so beside it."""

from __future__ import annotations

import re
import shlex

import anndata
import numpy as np
import pandas as pd
import pytest

from .cli.conftest import SMALL
from .made import called
from .test_readme import LINES, PAGES, STAGES

MARK = re.compile(r"\[(GPU|network|data|SLURM|weights)\]")
RUN_BY_OTHERS = {"diff", "report", "clean", "rerun", "show", "sweep-table", "run", "transfer"}
"""tests/cli runs these, with the names of runs that exist, or as a whole."""
DROPPED = ("sae.tokens", "sae.lr", "extract.check_cells", "sae.seed", "threads")
"""What would only make it slow."""


def commands():
    found = {}
    for line in LINES:
        if line.startswith("    steer ") and not MARK.search(line):
            words = tuple(shlex.split(line.split("#")[0])[1:])
            if words[0] not in RUN_BY_OTHERS or (words[:1] == ("run",) and len(words) > 2):
                found.setdefault(words)
    return list(found)


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_folder, tiny_genes, cells):
    """A folder with what the pages talk of: counts, config groups, a dictionary; all commands share its outputs."""
    from .sae.test_io import published

    home = tmp_path_factory.mktemp("docs")
    some = np.random.default_rng(0).permutation(cells.n_obs)[:150]
    labels = pd.DataFrame({"cell_type": np.array(["A", "B", "C"])[np.arange(150) % 3]}, index=[f"c{i}" for i in range(150)])
    anndata.AnnData(cells.X[some], obs=labels, var=pd.DataFrame(index=cells.var_names)).write_h5ad(home / "my.h5ad")
    (home / "sets").mkdir()
    (home / "sets" / "mine.gmt").write_text("mine\t\tCD8A\tCD8B\tGZMB\tNKG7\tCD3D\tIL7R\n")
    have = [gene for gene in tiny_genes if gene in set(cells.var_names)]
    edges = [f"{tf},{gene},1" for tf in have[:6] for gene in have[6:18]]
    (home / "my.csv").write_text("\n".join(["source,target,weight", *edges]) + "\n")
    published(home / "topk_sae.pt", width=32, expansion=4, k=6)
    for page in PAGES:
        for name, body in re.findall(r"`(my/\w+/\w+\.yaml)`[:\n]*\s*```yaml\n(.*?)```", page, re.S):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(body.replace("/checkpoints/mine", str(tiny_folder)))
    return home


def adapted(words, tiny_folder, home):
    """The words as typed, on the tiny model and few cells."""
    words = [w.replace("/dictionaries/topk_sae.pt", str(home / "topk_sae.pt")) for w in words if not w.startswith(DROPPED)]
    words = [w.replace("/checkpoints/mine", str(tiny_folder)).replace("GENES", "CD8A") for w in words]
    if words[0] not in STAGES | {"feature", "features"}:
        return words
    if {"objective.learnable=annotated", "objective.learnable=stable"} & set(words):  # random weights have few or none
        return [*words, "debug=small", "dataset.max_cells=150"]
    words = [w.replace("sae.support=0.6", "sae.support=0.3") for w in words]  # nor do their features recur
    keys = {w.split("=")[0] for w in words}
    small = [w for w in SMALL if w.split("=")[0] not in keys]
    if "dataset.path" in keys or "dataset=mine" in words:
        small.remove("dataset.max_cells=150")
    if "model" not in keys:
        small.append(f"model.path={tiny_folder}")
    return [re.sub(r"^layer=\d+$", "layer=1", w) for w in words] + small


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_pages_runs(words, home, tiny_folder, monkeypatch):
    monkeypatch.chdir(home)
    assert called(*adapted(words, tiny_folder, home)) == 0


def test_marks_are_few():
    marked = [line for line in LINES if line.startswith("    steer ") and MARK.search(line)]
    assert 0 < len(marked) < 0.5 * len(commands())
