"""Bad inputs, as many as we could think of: each ends in one line with what is wrong and what repairs it."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from steerpipe.cli.app import main
from steerpipe.cli.failure import explain
from steerpipe.data.genes import gene_list
from steerpipe.models.checkpoints import load_model
from steerpipe.sae.io import load_sae, save_sae
from steerpipe.store import Store

from ..made import own_logging
from ..sae.test_sae import random_sae

TINY = ["model=local", "model.path={tiny}", "layer=1", "debug=small"]
MINE = ["extract", "dataset=h5ad", "dataset.path={tmp}/cells.h5ad", "dataset.label=type", *TINY[:3]]
LABELS = ["fit", *TINY, "contrast=labels"]


def cells(tmp, edit=None, n=30, genes=None, label="type"):
    """A small file of counts that is right but for what `edit` does to it."""
    names = list(gene_list())[:400] if genes is None else genes
    X = np.random.default_rng(0).poisson(1.0, (n, len(names))).astype(np.float32)
    obs = pd.DataFrame({label: ["a", "b"] * (n // 2) + ["a"] * (n % 2)}, index=[f"c{i}" for i in range(n)])
    if edit is not None:
        edit(X)
    anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=names)).write_h5ad(tmp / "cells.h5ad")


def put(value):
    return lambda tmp: cells(tmp, lambda X: X.__setitem__((3, 5), value))


def truncated(tmp):
    cells(tmp)
    file = tmp / "cells.h5ad"
    file.write_bytes(file.read_bytes()[:3000])


def cut_weights(tmp):
    file = tmp / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


def pickled(value):
    def change(tmp):
        (tmp / "model.safetensors").unlink()
        torch.save(value, tmp / "pytorch_model.bin")

    return change


def settings(**changes):
    def change(tmp):
        found = json.loads((tmp / "config.json").read_text())
        (tmp / "config.json").write_text(json.dumps(found | changes))

    return change


class Code:
    """A pickle that would run code."""

    def __reduce__(self):
        return (os.system, ("true",))


COMMANDS = [
    # the command line itself: exit code 2
    (["fitt"], 2, "No such command 'fitt'", "See: steer --help"),
    (["fit", "--foo"], 2, "No such option: --foo", "See: steer fit --help"),
    (["fit", "--cfg", "jobb"], 2, "'jobb'", "'job', 'hydra', 'all'"),
    (["fit", "objective"], 2, "cannot read 'objective'", "KEY=VALUE"),
    (["fit", "a=["], 2, "cannot read 'a=['", "quote it"),
    (["fit", "lambda.value=0.1,0.2"], 2, "has several values", "add -m"),
    (["fit", "--resolve"], 2, "--resolve goes with --cfg", "add --cfg job"),
    (["fit", "-m", "--cfg", "job"], 2, "only one", "--multirun, --cfg and --info"),
    # the config
    (["fit", "objective=latnt"], 1, "unknown objective 'latnt'; did you mean 'latent'?", "Allowed: expression, latent"),
    (["fit", "-m", "objective=latent,latnt"], 1, "did you mean 'latent'?", "Allowed: expression, latent"),
    (["fit", "model=aido_cell_3"], 1, "did you mean 'aido_cell_3m'?", "mini"),
    (["fit", "dataset=null"], 1, "unknown dataset 'null'", "pbmc68k_reduced"),
    (["fit", "experiment=kang"], 1, "unknown experiment 'kang'; did you mean 'kang_ifnb'?", "cd4_cd8"),
    (["fit", "hydra/launcher=jblib"], 1, "did you mean 'joblib'?", "submitit_slurm"),
    (["fit", "sae.kk=3"], 1, "unknown key in sae 'kk'; did you mean 'k'?", "expansion"),
    (["fit", "+sae.kk=3"], 1, "unknown key in sae 'kk'; did you mean 'k'?", "expansion"),
    (["fit", "foo=bar"], 1, "unknown key or group 'foo'", "Allowed: adapter, annotate, atlas, circuits, contrast, dataset"),
    (["fit", "lamda=0.1"], 1, "did you mean 'lambda'?", "Allowed"),
    (["fit", "~sae"], 1, "the group sae cannot be left out", "steer fit --help"),
    (["fit", "sae.k=many"], 1, "sae.k=many is not a whole number", "--cfg job"),
    (["fit", "sae.lr=fast"], 1, "sae.lr=fast is not a number", "--cfg job"),
    (["fit", "sae.b_pre=perhaps"], 1, "sae.b_pre=perhaps is not true or false", "--cfg job"),
    (["fit", "evaluate.objectives=latent"], 1, "is not a list", "'evaluate.objectives=[latent]'"),
    (["fit", "sae.lr=nan"], 1, "sae.lr=nan", "must be greater than 0"),
    (["fit", "lambda.value=2"], 1, "lambda.value=2.0", "must be at most 1"),
    (["fit", "dataset.test_share=1"], 1, "dataset.test_share=1.0", "must lie in [0, 1)"),
    (["fit", "sae.held_out=0.1"], 1, "sae.held_out is gone", "write dataset.test_share=..."),
    (["fit", "+contrast.held_out=0.1"], 1, "contrast.held_out is gone", "write dataset.test_share=..."),
    (["fit", "sae.split_seed=1"], 1, "sae.split_seed is gone", "write dataset.split_seed=..."),
    (["fit", "device=tpu"], 1, "unknown device 'tpu'", "auto, cpu, cuda, mps"),
    (["extract", *TINY, "device=cuda"], 1, "torch sees no CUDA GPU", "device=cpu"),
    (["fit", "--config-dir", "/nowhere"], 1, "'/nowhere' not found", "a sub-folder per group"),
    (["fit", "dataset=h5ad"], 1, "dataset.path is needed", "add dataset.path="),
    (["fit", "contrast=labels"], 1, "contrast.source is needed", "add contrast.source="),
    (["fit", "model=local"], 1, "model.path is needed", "add model.path="),
    (["fit", "sae=file"], 1, "sae.path is needed", "add sae.path="),
    (["fit", "model=local", "model.path=/nowhere"], 1, "no config.json in /nowhere", "or a hub id"),
    (["fit", "model=scgpt"], 1, "model.path is needed", "add model.path="),
    (["fit", "model=geneformer"], 1, "model.path is needed", "add model.path="),
    (
        ["fit", "model=scgpt", "model.path=/nowhere"],
        1,
        "/nowhere, which is no folder",
        "args.json, vocab.json and best_model.pt",
    ),
    (["fit", "model=geneformer", "model.path=/nowhere"], 1, "/nowhere, which is no folder", "model.safetensors and genes.csv"),
    (["fit", *TINY, "layer=9"], 1, "layer.index=9 does not exist", "blocks 0 to 2"),
    (["fit", *TINY, "sae.k=1000"], 1, "sae.k=1000 is more than the 128 features", "expansion 4"),
    (["fit", *TINY, "model.tokens=expressed"], 1, "expressed", "use model.tokens=all"),
    (["fit", *TINY, "reuse=only"], 1, "reuse=only, but extract", "run with reuse=auto"),
    (["extract", "dataset=kang_ifnb"], 1, "kang_ifnb.h5ad", "set STEER_DATA"),
    # labels
    ([*LABELS, "contrast.source=CD4", "contrast.target=foo"], 1, "unknown label in 'bulk_labels' 'CD4'", "Allowed: "),
    ([*LABELS, "contrast.source=CD34+", "contrast.target=Dendritic"], 1, "cells; at least 10 are needed", "There are: "),
    ([*LABELS, "contrast.source=Dendritic", "contrast.target=Dendritic"], 1, "share ['Dendritic']", "must be different"),
    ([*LABELS, "contrast.column=cluster", "contrast.source=a", "contrast.target=b"], 1, "column 'cluster'", "louvain"),
    # runs
    (["show", "last"], 1, "no runs in outputs", "start with: steer run"),
    (["diff", "a", "b"], 1, "no runs in outputs", "start with: steer run"),
]

FILES = [
    (lambda tmp: None, "does not exist", "dataset.path="),
    (truncated, "cannot be read as .h5ad", "is the file complete?"),
    (lambda tmp: (tmp / "cells.h5ad").write_text("not HDF5\n"), "cannot be read as .h5ad", "is the file complete?"),
    (put(np.nan), "holds NaN", "raw counts are needed"),
    (put(-1), "negative values (smallest -1)", "raw counts are needed"),
    (put(0.5), "fractional values such as 0.5", "raw counts are needed, in X, raw or a layer."),
    (lambda tmp: cells(tmp, lambda X: X.__setitem__(2, 0)), "1 cells without a single count", "filter_cells"),
    (lambda tmp: cells(tmp, n=5), "has 5 cells", "at least 20 are needed"),
    (lambda tmp: cells(tmp, label="kind"), "unknown label column 'type'", "kind"),
    (
        lambda tmp: cells(tmp, genes=[f"ENSMUSG{i:011d}" for i in range(400)]),
        "0 of 400 gene names match",
        "Use human gene symbols",
    ),
]

MODELS = [
    (cut_weights, "cannot be read as weights", "fetch the file again"),
    (pickled([1, 2]), "no table of tensors", "state_dict() alone"),
    (pickled(Code()), "cannot be read as weights", "fetch the file again"),
    (settings(num_hidden_layers=7), "config.json says num_hidden_layers=7", "the weights have num_hidden_layers=3"),
    (settings(hidden_act="gelu"), "hidden_act='gelu' is not supported", "only 'swiglu'"),
    (lambda tmp: (tmp / "config.json").write_text("{"), "is not JSON", "config.json"),
    (lambda tmp: (tmp / "genes.txt").write_text("CD4\n"), "has 1 genes", "add a genes.txt that fits"),
    (lambda tmp: (tmp / "model.safetensors").unlink(), "no weights in", "model.safetensors"),
]


@pytest.fixture
def said(capfd, tmp_path, monkeypatch, tiny_folder):
    """Call `steer` in this process, from an empty folder; return its exit code and its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEER_DATA", str(tmp_path / "no data"))

    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([word.format(tmp=tmp_path, tiny=tiny_folder) if "{" in word else word for word in words])
        text = capfd.readouterr().err
        lines = [line for line in text.splitlines() if line.startswith("steer: ")]
        assert len(lines) == 1, text
        assert "Traceback" not in text
        assert "HYDRA_FULL_ERROR" not in text
        return end.value.code, lines[0]

    with own_logging():
        yield call


def check(error, *parts):
    line = str(explain(error)) if isinstance(error, BaseException) else error
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(("words", "code", "what", "repair"), COMMANDS, ids=[" ".join(row[0])[:60] for row in COMMANDS])
def test_commands(said, tmp_path, words, code, what, repair):
    found, line = said(*words)
    check(line, what, repair)
    assert found == code
    assert not list(tmp_path.glob("outputs/.store/*/*/artefact.json"))


@pytest.mark.parametrize(("make", "what", "repair"), FILES, ids=range(len(FILES)))
def test_data_files(said, tmp_path, make, what, repair):
    make(tmp_path)
    code, line = said(*MINE)
    check(line, what, repair)
    assert code == 1


@pytest.mark.parametrize(("change", "what", "repair"), MODELS, ids=range(len(MODELS)))
def test_model_files(tiny_folder, tmp_path, change, what, repair):
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is, `steer` must have a line for it
        load_model(tmp_path)
    check(raised.value, what, repair)


def test_a_cut_dictionary(tmp_path):
    save_sae(random_sae(d=8, f=16, k=2), tmp_path, {})
    file = tmp_path / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(Exception) as raised:  # noqa: PT011
        load_sae(tmp_path)
    check(raised.value, "cannot be read", "fetch the files again")


def test_a_full_disk(tmp_path):
    def build(folder):
        with Path("/dev/full").open("w") as file:
            file.write("x" * 100_000)

    with pytest.raises(OSError, match="No space left") as raised:
        Store(tmp_path).get("s", version=1, config={}, build=build)
    check(raised.value, "no space left on the disk", "steer clean --unused", "resumes")
    wrapped = RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file")
    check(wrapped, "no space left on the disk")


def test_outputs_that_cannot_be_written(said, tmp_path):
    (tmp_path / "file").write_text("")
    code, line = said("extract", *TINY, "outputs=file")
    check(line, "is a file where a folder is needed", "outputs=another")
    assert code == 1
    check(OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "cannot write to /mnt/x (Read-only", "outputs=")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can step down to a user without rights here")
def test_outputs_of_somebody_else(said, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # to be read, but not written, by others
    os.seteuid(65534)
    try:
        code, line = said("extract", "outputs=closed", "debug=small")
    finally:
        os.seteuid(0)
    check(line, "cannot write to", "outputs=")
    assert code == 1


def test_a_damaged_artefact(tmp_path):
    made = Store(tmp_path).get("s", version=1, config={}, build=lambda folder: None)
    (made.path / "artefact.json").write_text("{")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        Store(tmp_path).get("s", version=1, config={}, build=lambda folder: None)
    check(raised.value, "is damaged; remove the folder", "builds it anew")


def test_ctrl_c_says_how_to_resume_and_ends_a_sweep(said, monkeypatch, tmp_path):
    from steerpipe.commands import extract

    def stop(pipeline, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(extract, "main", stop)
    code, line = said("extract", "-m", "debug=small", "seed=0,1")
    assert code == 130
    assert line.endswith("To resume: steer extract -m debug=small seed=0,1")
    (manifest,) = tmp_path.glob("outputs/extract/*/*/*/manifest.json")  # the second job never began
    assert json.loads(manifest.read_text())["status"] == "stopped"


def test_a_second_process_on_one_key_says_that_it_waits(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="steerpipe")
    begun, may_end = threading.Event(), threading.Event()

    def build(folder):
        begun.set()
        may_end.wait(10)

    first = threading.Thread(target=lambda: Store(tmp_path).get("s", version=1, config={}, build=build))
    first.start()
    begun.wait(10)
    threading.Timer(0.5, may_end.set).start()
    assert Store(tmp_path).get("s", version=1, config={}, build=build).reused
    first.join()
    assert "another process is at it; waiting" in caplog.text


def test_defects_of_ours_keep_their_traceback():
    assert explain(ZeroDivisionError("division by zero")) is None
    assert explain(RuntimeError("shapes differ")) is None
