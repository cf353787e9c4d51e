"""Extraction against a plain forward pass, its resumption, and the shuffled reader."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.activations import extract as module
from steerpipe.activations.extract import OnlineStreams, extract
from steerpipe.activations.shards import Shards, layer_folder, write_shard
from steerpipe.activations.tokens import TokenPolicy, affordable_policy
from steerpipe.data.genes import align
from steerpipe.models.preprocess import model_input


@pytest.fixture(scope="module")
def aligned(cells, tiny_model):
    alignment = align(cells.var_names, tiny_model.genes)
    return alignment.apply(cells.X[:23]), np.flatnonzero(alignment.valid)


def run(aligned, model, folder, *, layers=(1,), policy=TokenPolicy(), **options):
    folder.mkdir(exist_ok=True)
    counts, valid = aligned
    settings = {"shard_tokens": policy.most(len(valid)) * 5, "batch_size": 3, **options}
    assert extract(model, counts, valid, layers, folder, policy=policy, **settings)
    return Shards(folder, layers[0])


def test_stored_activations_equal_a_plain_forward_pass_at_every_layer_asked_for(aligned, tiny_model, tmp_path):
    run(aligned, tiny_model, tmp_path, layers=(0, 2), dtype="float32")
    counts, valid = aligned
    values = model_input(counts, tiny_model.arch.depth)
    for layer in (0, 2):
        shards, stream = Shards(tmp_path, layer), tiny_model.stream(values, layer)
        assert (shards.n_cells, shards.n_genes, shards.width) == (23, len(valid), 32)
        for i in (0, 4, 5, 22):
            np.testing.assert_allclose(shards.cell(i), stream[i, valid], atol=1e-5)
        mean = np.load(layer_folder(tmp_path, layer) / "mean.npy")
        np.testing.assert_allclose(mean, stream[:, valid].mean(1), atol=1e-5)


def test_blocks_above_the_highest_layer_never_run(aligned, tiny_model, tmp_path, monkeypatch):
    def fail(*args):
        raise AssertionError("an upper block ran")

    monkeypatch.setattr(tiny_model.blocks[2], "forward", fail)
    run(aligned, tiny_model, tmp_path, layers=(0, 1))


@pytest.mark.parametrize("policy", [TokenPolicy("expressed"), TokenPolicy("sample", 17, seed=3)], ids=str)
def test_a_policy_stores_its_tokens_and_says_which(aligned, tiny_model, tmp_path, policy):
    whole = run(aligned, tiny_model, tmp_path / "whole", dtype="float32")
    some = run(aligned, tiny_model, tmp_path / "some", policy=policy, dtype="float32")
    counts, valid = aligned
    assert some.policy == policy
    columns = np.concatenate([np.load(file) for file in sorted((tmp_path / "some").glob("tokens_*.npy"))])
    start = 0
    for i in range(23):
        n = len(some.cell(i))
        mine = columns[start : start + n]
        start += n
        if policy.kind == "expressed":
            np.testing.assert_array_equal(mine, np.flatnonzero(counts[i, valid].toarray()[0]))
        else:
            assert len(np.unique(mine)) == 17
        np.testing.assert_allclose(some.cell(i), whole.cell(i)[mine], atol=1e-5)
    assert start == len(columns) == some.n_tokens(np.arange(23))


def test_a_sample_is_another_one_for_another_cell_or_seed():
    counts = np.zeros(100)
    draws = [TokenPolicy("sample", 10, seed).columns(cell, counts) for cell, seed in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert np.array_equal(draws[0], draws[3])
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert len(TokenPolicy("sample", 200).columns(0, counts)) == 100


def test_the_default_policy_fits_the_disk_budget():
    assert affordable_policy(700, 691, 256, 20e9).kind == "valid"
    large = affordable_policy(2638, 17_000, 1280, 20e9)  # PBMC3K at 100M
    assert str(large) == "sample(4096)"
    assert 2638 * large.n * 1280 <= 20e9 < 2638 * 2 * large.n * 1280


def test_online_activations_are_the_stored_ones(aligned, tiny_model, tmp_path):
    counts, valid = aligned
    policy = TokenPolicy("sample", 31, seed=1)
    stored = run(aligned, tiny_model, tmp_path, policy=policy, dtype="float32")
    online = OnlineStreams(tiny_model, counts, valid, 1, policy, batch_size=4)
    cells = np.array([7, 2, 19, 3])
    for a, b in zip(stored.cells(cells), online.cells(cells), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    first, second = (list(s.batches(cells, 20, seed=5)) for s in (stored, online))
    assert len(first) == len(second) > 2
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_parts_in_any_order_join_to_the_same_bytes(aligned, tiny_model, tmp_path):
    run(aligned, tiny_model, tmp_path / "whole")
    folder = tmp_path / "parts"
    folder.mkdir()
    counts, valid = aligned
    options = {"shard_tokens": len(valid) * 5, "batch_size": 3}
    assert not extract(tiny_model, counts, valid, [1], folder, part=(1, 2), **options)
    assert not (folder / "index.json").exists()
    assert extract(tiny_model, counts, valid, [1], folder, part=(0, 2), **options)
    assert not (folder / "index.json").exists()
    run(aligned, tiny_model, folder)
    assert files(folder) == files(tmp_path / "whole")


def test_expressed_genes_alone_are_run_at_their_true_positions(aligned, tiny_model, tmp_path):
    counts, valid = aligned
    shards = run(aligned, tiny_model, tmp_path, policy=TokenPolicy("expressed"), dtype="float32", subset=True)
    values = model_input(counts[:1], tiny_model.arch.depth)
    there = valid[np.flatnonzero(counts[0, valid].toarray()[0])]
    positions = torch.from_numpy(np.concatenate([there, [tiny_model.n_genes, tiny_model.n_genes + 1]]))
    np.testing.assert_allclose(shards.cell(0), tiny_model.stream(values[:, positions], 1, positions)[0, :-2], atol=1e-5)
    full = tiny_model.stream(values, 1)[0, there]
    assert np.abs(shards.cell(0) - full.numpy()).max() > 0.01  # an approximation, and seen to be one


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_killed_extraction_resumes_to_the_same_bytes(aligned, tiny_model, tmp_path, monkeypatch):
    run(aligned, tiny_model, tmp_path / "whole")
    calls = []
    original = module.write_shard

    def dying(folder, number, tokens, dtype):
        calls.append(number)
        if number == 2 and len(calls) == 3:
            raise KeyboardInterrupt
        original(folder, number, tokens, dtype)

    monkeypatch.setattr(module, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        run(aligned, tiny_model, tmp_path / "killed")
    run(aligned, tiny_model, tmp_path / "killed")
    assert calls == [0, 1, 2, 2, 3, 4]
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_values_beyond_float16_keep_float32(tmp_path):
    write_shard(tmp_path, 0, np.ones((6, 4), np.float32), "float16")
    write_shard(tmp_path, 1, np.full((6, 4), 1e6, np.float32), "float16")
    assert np.load(tmp_path / "streams_00000.npy").dtype == np.float16
    assert np.load(tmp_path / "streams_00001.npy").dtype == np.float32


def test_bfloat16_comes_back_rounded_and_nothing_else(aligned, tiny_model, tmp_path):
    exact = run(aligned, tiny_model, tmp_path / "exact", dtype="float32").cell(3)
    stored = run(aligned, tiny_model, tmp_path / "short", dtype="bfloat16").cell(3)
    np.testing.assert_array_equal(stored, torch.from_numpy(exact).bfloat16().float().numpy())


def test_reader_gives_every_token_of_its_cells_once_shuffled_and_seeded(aligned, tiny_model, tmp_path):
    shards = run(aligned, tiny_model, tmp_path, dtype="float32")
    cells = np.array([1, 3, 4, 8, 20])

    def read(**options):
        return torch.cat(list(shards.batches(cells, 64, **options)))

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
