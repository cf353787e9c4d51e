"""Gene-centred dictionaries: the means, the SAE of deviations, what it finds, its file, and scores beside other SAEs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from steerpipe.activations.shards import Shards, layer_folder, write_index, write_shard
from steerpipe.activations.tokens import TokenPolicy
from steerpipe.config import SaeConfig
from steerpipe.errors import SteerError
from steerpipe.sae.baselines import Baselines, fit_baselines
from steerpipe.sae.centred import CentredTokens, for_genes, gene_means
from steerpipe.sae.io import load_sae, save_sae
from steerpipe.sae.metrics import score_sae
from steerpipe.sae.model import ThresholdSAE, TopKSAE
from steerpipe.sae.train import train_sae

D, G, F, K, CELLS = 32, 60, 64, 2, 100
GENES = tuple(f"g{i}" for i in range(G))
CPU = torch.device("cpu")


def stored(folder, tokens, columns=None):
    """Shards of tokens (N, n, D); where not every gene has one, the genes' columns (N, n)."""
    layer_folder(folder, 0).mkdir(parents=True, exist_ok=True)
    n_cells, each, width = tokens.shape
    write_shard(layer_folder(folder, 0), 0, tokens.reshape(-1, width).astype(np.float32), "float32")
    if columns is not None:
        np.save(folder / "tokens_00000.npy", columns.reshape(-1).astype(np.int32))
    policy = TokenPolicy() if columns is None else TokenPolicy("sample", each)
    write_index(folder, [0], np.full(n_cells, each), G, n_cells, policy)
    return Shards(folder, 0)


def sampled(rng, n_cells, n_genes, each=20):
    """Tokens (n_cells, each, D) of genes that are drawn anew for every cell, and these genes."""
    columns = [np.sort(rng.choice(n_genes, each, replace=False)) for _ in range(n_cells)]
    return rng.standard_normal((n_cells, each, D)), np.stack(columns)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Tokens that are a mean of their gene, the larger part, and two of 16 state directions; the means and the directions."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((G, D)) * 1.0
    states = rng.standard_normal((16, D))
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    codes = np.zeros((CELLS * G, 16))
    for row in codes:
        row[rng.choice(16, 2, replace=False)] = rng.uniform(1, 2, 2)
    tokens = means + (codes @ states).reshape(CELLS, G, D)
    return stored(tmp_path_factory.mktemp("planted"), tokens), tokens, states


def some_sae(kind=TopKSAE, seed=0, genes=GENES, activation="identity"):
    """Random weights, gene-centred, and the plain SAE that it is of deviations from its means."""
    generator = torch.Generator().manual_seed(seed)
    plain = kind(D, F, K, activation=activation).requires_grad_(False)
    for p in plain.parameters():
        p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    means = torch.randn(len(genes), D, generator=generator)
    made = kind(D, F, K, activation=activation).requires_grad_(False)
    made.load_state_dict(plain.state_dict())
    return made.centre_genes(means, genes), plain, means


@pytest.fixture
def x():
    return torch.randn(3, G, D, generator=torch.Generator().manual_seed(9))


def recovered(sae, states):
    rows = torch.nn.functional.normalize(sae.W_dec, dim=1).numpy()
    return np.abs(states @ rows.T).max(1).mean()


def train(source, folder, cells=None, **options):
    folder.mkdir(exist_ok=True)
    config = SaeConfig(expansion=1, k=K, tokens=300_000, batch_size=1000, lr=5e-3, **options)
    return train_sae(source, np.arange(CELLS) if cells is None else cells, config, folder, device=CPU)


def test_a_centred_sae_finds_the_states_where_a_plain_one_of_its_size_finds_genes(planted, tmp_path):
    source, tokens, states = planted
    plain = train(source, tmp_path / "plain")
    means = gene_means(source, np.arange(CELLS))
    sae = train(CentredTokens(source, means), tmp_path / "centred").centre_genes(means, GENES)
    assert recovered(sae, states) > 0.95
    assert recovered(plain, states) < 0.75
    cells = np.arange(CELLS)
    fvu, of_plain = score_sae(sae, source, cells).fvu, score_sae(plain, source, cells).fvu
    flat = torch.from_numpy(tokens.astype(np.float32))
    error = (sae(flat) - flat).square().sum() / (flat - flat.mean((0, 1))).square().sum()
    assert fvu == pytest.approx(float(error), rel=1e-3)  # the denominator is that of all tokens, as a plain SAE's
    assert fvu < of_plain / 10

    def purity(one):
        """The share of a feature's tokens that are of its most frequent gene, over the features that fire."""
        on = one.encode(flat)
        gene = torch.arange(G)[None, :, None].expand(on.indices.shape)
        table = np.zeros((one.n_features, G))
        np.add.at(table, (on.indices.numpy().ravel(), gene.numpy().ravel()), (on.values != 0).numpy().ravel())
        table = table[table.sum(1) > 0]
        return float(np.median(table.max(1) / table.sum(1)))

    assert purity(sae) < 0.1
    assert purity(plain) > 0.2


@pytest.mark.parametrize("kind", [TopKSAE, ThresholdSAE])
def test_it_is_the_plain_sae_of_the_deviations(x, kind):
    sae, plain, means = some_sae(kind)
    codes, wanted = sae.encode(x), plain.encode(x - means)
    torch.testing.assert_close(codes.dense(F), wanted.dense(F), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(codes), plain.decode(wanted) + means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae(x), plain(x - means) + means, atol=1e-5, rtol=1e-5)


def test_the_sae_of_some_genes_is_that_of_their_tokens(x):
    sae, _, _ = some_sae()
    columns = np.array([40, 3, 17])
    some = sae.at(columns)
    assert some.genes == ("g40", "g3", "g17")
    torch.testing.assert_close(some.encode(x[:, columns]).dense(F), sae.encode(x).dense(F)[:, columns])
    assert some.W_dec is sae.W_dec
    assert len(sae.b_pre) == G  # the whole one stays
    with pytest.raises(ValueError, match="of an SAE of 60 genes"):
        sae.encode(x[:, columns])
    with pytest.raises(ValueError, match="of an SAE of 1 genes"):
        sae.at(columns[:1]).encode(x)  # which would be broadcast
    with pytest.raises(ValueError, match="of an SAE of 60 genes"):
        sae.encode(x[0, 0])
    plain = some_sae()[1]
    assert plain.at(columns) is plain


def test_means_are_of_each_genes_tokens_and_of_no_other_cell(tmp_path, rng):
    tokens, columns = (
        rng.standard_normal((12, 20, D)),
        np.stack([np.sort(rng.choice(G - 1, 20, replace=False)) for _ in range(12)]),
    )
    fit = np.array([0, 2, 3, 5, 8])
    found = gene_means(stored(tmp_path / "a", tokens, columns), fit).numpy()
    seen = {int(gene) for gene in columns[fit].ravel()}
    for gene in range(G):
        own = tokens[fit][columns[fit] == gene]
        np.testing.assert_allclose(found[gene], (own if gene in seen else tokens[fit].reshape(-1, D)).mean(0), atol=1e-6)
    assert G - 1 not in seen
    others = np.setdiff1d(np.arange(12), fit)
    tokens[others] = np.nan
    columns[others] = np.arange(20)
    np.testing.assert_array_equal(gene_means(stored(tmp_path / "b", tokens, columns), fit).numpy(), found)


def test_centred_tokens_are_the_sources_less_their_genes_means(tmp_path, rng):
    tokens, columns = sampled(rng, 6, G)
    source, means = stored(tmp_path, tokens, columns), torch.randn(G, D)
    centred, cells = CentredTokens(source, means), np.array([4, 1, 2])
    for x, cell in zip(centred.cells(cells), cells, strict=True):
        np.testing.assert_allclose(x, tokens[cell] - means.numpy()[columns[cell]], atol=1e-5)
    for name in ("lengths", "columns"):
        np.testing.assert_array_equal(getattr(centred, name)(cells), getattr(source, name)(cells))
    shuffled = torch.cat(list(centred.batches(cells, 20, seed=3))), torch.cat(list(source.batches(cells, 20, seed=3)))
    at = {
        row.numpy().tobytes(): columns.reshape(-1)[i] for i, row in enumerate(torch.from_numpy(tokens).float().reshape(-1, D))
    }
    gene = [at[row.numpy().tobytes()] for row in shuffled[1]]
    torch.testing.assert_close(shuffled[0], shuffled[1] - means[gene])


def test_scores_of_a_sample_of_tokens_are_of_each_tokens_own_gene(tmp_path, rng):
    tokens, columns = sampled(rng, 6, G)
    source, (sae, plain, means) = stored(tmp_path, tokens, columns), some_sae()
    x = torch.from_numpy(tokens[:4]).float()
    own = means[columns[:4]]
    score = score_sae(sae, source, np.arange(4))
    total = (x - x.mean((0, 1))).square().sum()
    assert score.fvu == pytest.approx(float((plain(x - own) + own - x).square().sum() / total), rel=1e-4)
    np.testing.assert_allclose(score.density, (plain.encode(x - own).dense(F) != 0).float().mean((0, 1)), atol=1e-9)


@pytest.mark.parametrize("kind", [TopKSAE, ThresholdSAE])
def test_file_round_trip(tmp_path, x, kind):
    sae, _, _ = some_sae(kind)
    save_sae(sae, tmp_path, {"note": "kept"})
    again = load_sae(tmp_path)
    assert (again.genes, again.k, type(again)) == (GENES, K, kind)
    torch.testing.assert_close(again.encode(x).dense(F), sae.encode(x).dense(F), atol=0, rtol=0)
    torch.testing.assert_close(again(x), sae(x), atol=0, rtol=0)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    assert cfg["architecture"].endswith("_gene_centred")
    assert cfg["metadata"]["saelens"].startswith("refused")
    del cfg["metadata"]["genes"]
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SteerError, match=r"lacks metadata.genes"):
        load_sae(tmp_path)


def test_a_file_without_its_means_is_refused(tmp_path):
    sae, plain, _ = some_sae()
    save_sae(plain, tmp_path, {})
    weights = (tmp_path / "sae_weights.safetensors").read_bytes()
    save_sae(sae, tmp_path, {})
    (tmp_path / "sae_weights.safetensors").write_bytes(weights)
    with pytest.raises(SteerError, match="weights lack b_pre"):
        load_sae(tmp_path)


def test_another_dataset_has_its_genes_by_name_or_is_refused(x):
    sae, plain, _ = some_sae()
    other = for_genes(sae, ["g7", "g50"], "here")
    torch.testing.assert_close(other.encode(x[:, [7, 50]]).dense(F), sae.encode(x).dense(F)[:, [7, 50]])
    with pytest.raises(SteerError, match=r"here has no mean for 1 of the dataset's 2 genes \(new\)") as error:
        for_genes(sae, ["g7", "new"], "here")
    assert "\n" not in str(error.value)
    assert for_genes(plain, ["new"], "here") is plain


def test_baselines_have_the_same_means(planted, tmp_path):
    source, tokens, _ = planted
    cells = np.arange(CELLS)
    means = gene_means(source, cells)
    found = fit_baselines(CentredTokens(source, means), cells, F, K, n_tokens=3000).centre_genes(means, GENES)
    found.save(tmp_path)
    flat = torch.from_numpy(tokens.astype(np.float32))
    raw = fit_baselines(source, cells, F, K, n_tokens=3000)
    for (name, one), again in zip(found.items().items(), Baselines.load(tmp_path).items().values(), strict=True):
        torch.testing.assert_close(again.decode(again.encode(flat)), one.decode(one.encode(flat)), atol=1e-4, rtol=1e-4)
        assert again.gene_centred, name
    # 16 directions span the deviations: as many components leave nothing, where of the tokens they do
    first, of_raw = (score_sae(one.pca.first(16), source, cells).fvu for one in (found, raw))
    assert first < 1e-6
    assert of_raw > 0.1


def test_settings_that_cannot_be_meant():
    with pytest.raises(SteerError, match=r"unknown sae.centre 'cell'.*none, gene"):
        SaeConfig(centre="cell")
    with pytest.raises(SteerError, match=r"sae.centre is for training"):
        SaeConfig(path="x", centre="gene")
