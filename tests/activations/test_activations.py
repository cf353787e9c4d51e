"""Extraction against a plain forward pass, its resumption, and the shuffled reader."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.activations import extract as module
from steerpipe.activations.extract import extract
from steerpipe.activations.shards import Shards, write_shard
from steerpipe.data.genes import align
from steerpipe.models.preprocess import model_input


@pytest.fixture(scope="module")
def aligned(cells, tiny_model):
    alignment = align(cells.var_names, tiny_model.genes)
    return alignment.apply(cells.X[:23]), np.flatnonzero(alignment.valid)


def run(aligned, model, folder, **options):
    folder.mkdir(exist_ok=True)
    counts, valid = aligned
    extract(model, counts, valid, 1, folder, shard_tokens=len(valid) * 5, batch_size=3, **options)
    return Shards(folder)


def test_stored_activations_equal_a_plain_forward_pass(aligned, tiny_model, tmp_path):
    shards = run(aligned, tiny_model, tmp_path, dtype="float32")
    counts, valid = aligned
    values = model_input(counts, tiny_model.arch.depth)
    stream, output = tiny_model.stream(values, 1), tiny_model(values)
    assert (shards.n_cells, shards.n_genes, shards.width) == (23, len(valid), 32)
    for i in (0, 4, 5, 22):
        np.testing.assert_allclose(shards.cell(i), stream[i, valid], atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "layer.npy"), stream[:, valid].mean(1), atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "final.npy"), output.final[:, valid].mean(1), atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "expression.npy"), output.expression[:, valid], atol=1e-4)


def test_a_killed_extraction_resumes_to_the_same_bytes(aligned, tiny_model, tmp_path, monkeypatch):
    run(aligned, tiny_model, tmp_path / "whole")
    calls = []
    original = module.write_shard

    def dying(folder, number, streams, dtype):
        calls.append(number)
        if number == 2 and len(calls) == 3:
            raise KeyboardInterrupt
        original(folder, number, streams, dtype)

    monkeypatch.setattr(module, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        run(aligned, tiny_model, tmp_path / "killed")
    run(aligned, tiny_model, tmp_path / "killed")
    assert calls == [0, 1, 2, 2, 3, 4]
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_values_beyond_float16_keep_float32(tmp_path):
    write_shard(tmp_path, 0, np.ones((2, 3, 4), np.float32), "float16")
    write_shard(tmp_path, 1, np.full((2, 3, 4), 1e6, np.float32), "float16")
    assert np.load(tmp_path / "streams_00000.npy").dtype == np.float16
    assert np.load(tmp_path / "streams_00001.npy").dtype == np.float32


def test_reader_gives_every_token_of_its_cells_once_shuffled_and_seeded(aligned, tiny_model, tmp_path):
    shards = run(aligned, tiny_model, tmp_path, dtype="float32")
    cells = np.array([1, 3, 4, 8, 20])

    def read(**options):
        return torch.cat(list(shards.batches(cells, 64, cells_at_once=2, **options)))

    plain = read()
    assert torch.equal(plain, torch.from_numpy(np.concatenate([shards.cell(i) for i in cells])))
    first, again, other = read(seed=1), read(seed=1), read(seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    whole = len(plain) // 64 * 64
    assert len(first) == whole

    def rows(x):
        return {row.tobytes() for row in x.numpy()}

    assert rows(first) <= rows(plain)
    assert len(rows(first)) >= 0.99 * whole  # each row once: tokens of different genes differ
