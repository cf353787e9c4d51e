"""The baseline dictionaries: beside scikit-learn's PCA, planted independent sources, and their own reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from steerpipe.activations.tokens import TokenPolicy, TokenSource
from steerpipe.sae import baselines as module
from steerpipe.sae.baselines import NAMES, Baselines, fit_baselines, sample_tokens
from steerpipe.sae.metrics import score_sae
from steerpipe.sae.model import weighted_rows

TRAIN = np.arange(20)


class Tokens(TokenSource):
    """Sparse independent sources (Laplace), mixed and shifted; cell 20 and later hold numbers that would show."""

    def __init__(self, *, n_cells=24, n_genes=200, width=6):
        rng = np.random.default_rng(0)
        self.n_cells, self.n_genes, self.width, self.policy = n_cells, n_genes, width, TokenPolicy()
        self.mixing = rng.standard_normal((width, width)) * np.array([4, 3, 2, 1, 1, 1])[:, None]
        x = rng.laplace(size=(n_cells, n_genes, width)) @ self.mixing + 3.0
        x[20:] = 1e4
        self.x = x.astype(np.float32)

    def cells(self, ids):
        return list(self.x[ids])


@pytest.fixture(scope="module")
def source():
    return Tokens()


@pytest.fixture(scope="module")
def found(source):
    return fit_baselines(source, TRAIN, 24, 3, n_tokens=4000)


def fvu(dictionary, source):
    return score_sae(dictionary, source, TRAIN).fvu


def test_sample_reads_the_given_cells_alone_and_the_same_each_time(source):
    sample = sample_tokens(source, TRAIN, 400)
    assert sample.shape == (400, 6)
    assert float(sample.max()) < 1e3
    assert torch.equal(sample, sample_tokens(source, TRAIN, 400))


def test_linear_dictionaries_with_all_codes_are_exact(found, source):
    for name in ("neurons", "pca", "ica"):
        dictionary = getattr(found, name)
        assert fvu(dictionary, source) < 1e-9, name
        torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(6))
    x = torch.from_numpy(source.x[0])
    torch.testing.assert_close(found.neurons.encode(x).values, x - found.neurons.centre)


def test_leading_components_reconstruct_as_scikit_learns_pca(found, source):
    x = source.x[TRAIN].reshape(-1, 6)
    pca = PCA(n_components=3).fit(x)
    expected = ((pca.inverse_transform(pca.transform(x)) - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert fvu(found.pca.first(3), source) == pytest.approx(expected, rel=1e-3)


def test_a_sparse_code_keeps_the_largest(found, source):
    x = torch.from_numpy(source.x[0])
    for name in ("neurons", "pca", "ica"):
        sparse = getattr(found, name).sparse(2)
        z, codes = getattr(found, name).encode(x).values, sparse.encode(x)
        dense = codes.dense(6)
        assert ((dense != 0).sum(1) == 2).all()
        kept = z.abs().topk(2).values.sum(1)
        torch.testing.assert_close(dense.abs().sum(1), kept)
        torch.testing.assert_close(sparse.decode(codes), dense @ sparse.W_dec + sparse.centre, atol=1e-4, rtol=1e-5)


def test_ica_finds_planted_sources(found, source):
    assert found.ica_converged
    truth = source.mixing / np.linalg.norm(source.mixing, axis=1, keepdims=True)
    cosine = np.abs(truth @ found.ica.W_dec.double().numpy().T)
    assert cosine.max(1).min() > 0.98
    assert np.abs(truth @ found.pca.W_dec.double().numpy().T).max(1).min() < 0.9


def test_an_unconverged_ica_says_so(source, monkeypatch):
    monkeypatch.setattr(module, "ICA_STEPS", 1)
    assert not fit_baselines(source, TRAIN, 24, 3, n_tokens=400).ica_converged


def test_the_random_saes_gain_is_the_best_one(found, source):
    base = fvu(found.random, source)
    W_dec = found.random.W_dec
    for factor in (0.9, 1.1):
        scaled = found.random.W_dec.clone() * factor

        class Scaled:
            n_features, W_dec, encode, gene_centred = found.random.n_features, scaled, found.random.encode, False

            def decode(self, codes):
                return weighted_rows(codes, self.W_dec) + found.random.b_pre

        assert fvu(Scaled(), source) > base
    assert base < 1
    rows = W_dec / W_dec.norm(dim=1, keepdim=True)
    torch.testing.assert_close(rows, found.random.W_enc.T)


def test_files(found, source, tmp_path):
    found.save(tmp_path)
    again, x = Baselines.load(tmp_path), torch.from_numpy(source.x[1])
    assert tuple(again.items()) == NAMES
    assert (again.ica_converged, again.ica_steps) == (found.ica_converged, found.ica_steps)
    for name, dictionary in found.items().items():
        codes, other = dictionary.encode(x), again.items()[name].encode(x)
        assert torch.equal(codes.values, other.values)
        assert torch.equal(codes.indices, other.indices)
