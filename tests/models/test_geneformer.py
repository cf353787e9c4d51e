"""Geneformer: rank values by hand, parity with BertForMaskedLM's own forward pass, its folder and its pickles."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from steerpipe.errors import SteerError
from steerpipe.models import geneformer_tables
from steerpipe.models.checkpoints import has_head, load_model, model_genes, provenance, read_config
from steerpipe.models.geneformer import rank_order
from steerpipe.models.kinds import GENEFORMER, kind_of

from . import tiny

GENES = [f"g{i}" for i in range(40)]


@pytest.fixture(scope="module", params=[True, False], ids=["V2", "V1"])
def model(request):
    pytest.importorskip("transformers")
    return tiny.geneformer(GENES, special=request.param)


@pytest.fixture
def folder(model, tmp_path):
    return tiny.save_geneformer(model, tmp_path / "geneformer")


@pytest.fixture(scope="module")
def counts():
    X = np.random.default_rng(1).poisson(1.0, (4, 40))
    X[:, 0] = 1
    return sp.csr_matrix(X.astype(np.float32))


def test_rank_values_by_hand():
    # 6/2 = 3, 1/0.25 = 4, 4/4 = 1, 2/2 = 1: the tie goes to the earlier gene
    np.testing.assert_array_equal(rank_order(np.array([6.0, 1.0, 4.0, 2.0]), np.array([2, 0.25, 4, 2])), [1, 0, 2, 3])


def test_tokens_by_hand(model):
    row = np.zeros(40, np.float32)
    row[[1, 2, 8, 6]] = 3, 10, 3, 1  # medians 1.5, 2.5, 1.5, 6.5: values 2, 4, 2, 0.15
    tokens = model.tokens(sp.csr_matrix(row[None]))
    if model.arch.special:
        np.testing.assert_array_equal(tokens.genes, [[40, 2, 1, 8, 6, 41]])
        np.testing.assert_array_equal(tokens.values, [[0, 1, 0.75, 0.5, 0.25, 0]])
    else:
        np.testing.assert_array_equal(tokens.genes, [[2, 1, 8, 6]])


def test_equals_the_forward_pass_of_transformers(model, counts):
    tokens = model.tokens(counts)
    there = tokens.genes >= 0
    ids = torch.where(there, model.rows[tokens.genes.clamp_min(0)], 0)
    streams = model.streams(tokens, [-1, 0, 1, 2])
    with torch.no_grad():
        theirs = model.lm(input_ids=ids, attention_mask=there.long(), output_hidden_states=True)
        for layer, stream in streams.items():
            torch.testing.assert_close(stream[there], theirs.hidden_states[layer + 1][there], atol=1e-6, rtol=1e-5)
        scores = model.forward_from(0, streams[0], None, tokens.genes).expression
    shares = theirs.logits.softmax(-1)
    for cell in range(4):  # the rank score from its formula
        first = int(model.arch.special)
        n = int(there[cell].sum()) - 2 * first
        wanted = sum(shares[cell, first + p, model.rows[:40]] * (1 - p / n) for p in range(n))
        torch.testing.assert_close(scores[cell], wanted, atol=1e-5, rtol=1e-4)


def test_a_head_that_copies_its_tokens_reads_their_ranks():
    pytest.importorskip("transformers")
    model = tiny.geneformer(GENES, width=64)
    row = np.zeros((1, 40), np.float32)
    row[0, [3, 9, 30, 17]] = 40, 9, 1, 2
    tokens = model.tokens(sp.csr_matrix(row))
    planted = torch.zeros(1, tokens.genes.shape[1], 64)
    planted.scatter_(2, model.rows[tokens.genes][..., None], 1.0)  # one axis a row of the dictionary

    class Copy(torch.nn.Module):
        def forward(self, final):
            return 50 * final[..., : model.lm.config.vocab_size]

    model.lm.cls = Copy()
    with torch.no_grad():
        found = model.forward_from(2, planted, None, tokens.genes).expression[0]
    order = tokens.genes[0, 1:-1]
    torch.testing.assert_close(found[order], torch.tensor([1, 0.75, 0.5, 0.25]), atol=1e-4, rtol=0)
    assert found.sum() == pytest.approx(2.5, abs=1e-3)


def test_its_folder_is_read_as_it_was_written(model, folder, counts):
    assert kind_of(folder) == GENEFORMER
    again = load_model(folder)
    assert again.genes == model_genes(folder) == tuple(GENES)
    assert read_config(folder) == again.arch == model.arch
    assert not has_head(folder)
    assert "Apache" in provenance(folder)["licence"]
    tokens = model.tokens(counts)
    assert torch.equal(again.stream(tokens, 2), model.stream(tokens, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "genes.csv").unlink(), "Convert them once: python -m steerpipe.models.geneformer_tables"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "cannot be read as weights"),
        (lambda f: (f / "genes.csv").write_text("a,b\n1,2\n"), "has columns a, b"),
        (lambda f: (f / "args.json").write_text("{}"), "files of two models"),
        (lambda f: (f / "config.json").unlink(), "looks like Geneformer's, but has no config.json"),
        (lambda f: set_medians(f, ""), "a median above 0: make it by python -m"),
        (lambda f: set_medians(f, "0"), "a median above 0: make it by python -m"),
        (lambda f: set_config(f, "vocab_size", 30), "dictionaries of their own"),
        (lambda f: set_config(f, "hidden_size", 17), "does not divide"),
        (lambda f: set_config(f, "num_hidden_layers", 4), "keys missing"),
        (lambda f: set_config(f, "intermediate_size", 25), "has shape"),
        (lambda f: set_config(f, "is_decoder", True), "another BERT"),
        (lambda f: set_config(f, "model_type", "gpt2"), "is no model that steer knows"),
    ],
)
def test_a_folder_that_is_wrong_is_told_in_one_line(folder, change, message):
    change(folder)
    with pytest.raises(SteerError, match=message) as told:
        load_model(folder)
    assert "\n" not in str(told.value)


def set_config(folder, name, value):
    """Change one of config.json's settings."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))


def set_medians(folder, value):
    """Give every gene of genes.csv the same median."""
    file = folder / "genes.csv"
    pd.read_csv(file, dtype=str, keep_default_na=False).assign(median=value).to_csv(file, index=False)


TOKENS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "ENSG1": 4, "ENSG2": 5, "ENSG3": 6, "ENSG4": 7}
MEDIANS = {"ENSG1": 2.0, "ENSG2": np.float64(0.5), "ENSG4": 1.5, "ENSG9": 3.0}
NAMES = {"A": "ENSG1", "B": "ENSG2", "C": "ENSG3"}


def pickles(folder, **tables):
    """Write pickles, and return their paths."""
    for name, table in tables.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(table))
    return [folder / f"{name}.pkl" for name in ("tokens", "medians", "names")]


def test_pickles_are_converted_once(tmp_path, capsys):
    files = pickles(tmp_path, tokens=TOKENS, medians=MEDIANS, names=NAMES)
    assert geneformer_tables.main([str(tmp_path), *map(str, files)]) == 0
    assert "7 tokens" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "genes.csv")
    assert table["gene"].tolist() == ["<pad>", "<mask>", "<cls>", "<eos>", "A", "B", "ENSG4"]  # ENSG3 has no median
    assert table["median"].tolist()[4:] == [2.0, 0.5, 1.5]
    assert table["token"].tolist() == [0, 1, 2, 3, 4, 5, 7]


class Bad:
    """A pickle that would run a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = pickles(tmp_path, tokens={"ENSG1": Bad()}, medians=MEDIANS, names=NAMES)
    assert geneformer_tables.main([str(tmp_path), *map(str, files)]) == 1
    told = capsys.readouterr().err
    assert "is refused" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "genes.csv").exists()
