"""Matching of features: what is the same is found, and what is random is not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.linalg import hadamard

from steerpipe.activations.tokens import TokenPolicy, TokenSource
from steerpipe.config import SaeConfig
from steerpipe.sae.consensus import merged, pool
from steerpipe.sae.model import TopKSAE
from steerpipe.sae.stability import cosines, energy_weighted, match, ochiai, overlap, recurrence
from steerpipe.sae.train import train_sae

WIDTH, SHARED = 24, 8
CELLS = np.arange(6)


class Tokens(TokenSource):
    """Sparse non-negative codes of orthogonal directions."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.n_cells, self.n_genes, self.width, self.policy = len(CELLS), 200, WIDTH, TokenPolicy()
        self.rows = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
        codes = rng.exponential(size=(len(CELLS), 200, WIDTH)) * (rng.random((len(CELLS), 200, WIDTH)) < 0.15)
        self.x = (codes @ self.rows).astype(np.float32)

    def cells(self, ids):
        return list(self.x[ids])


@pytest.fixture(scope="module")
def source():
    return Tokens()


def dictionary(rows, *, decoder=None, k=4):
    """A tied SAE of some directions (F, D), or one that writes others than it reads."""
    sae = TopKSAE(rows.shape[1], len(rows), k, activation="relu").requires_grad_(False)
    sae.W_enc.copy_(torch.from_numpy(np.ascontiguousarray(rows.T)))
    sae.W_dec.copy_(torch.from_numpy(rows if decoder is None else decoder))
    return sae


def mixed(rows, seed):
    """Other directions of the same span."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(rows), len(rows))))[0]
    return (turn @ rows).astype(np.float32)


@pytest.fixture(scope="module")
def two_seeds(source):
    """Two dictionaries with 8 features in common, in another order, and 8 that only span the same subspace."""
    common, rest = source.rows[:SHARED], source.rows[SHARED:16]
    order = np.random.default_rng(1).permutation(16)
    turned = (hadamard(8) / 8**0.5 @ rest).astype(np.float32)  # no direction of it is near one of the rest
    a, b = np.concatenate([common, rest]), np.concatenate([common, turned])[order]
    return dictionary(a), dictionary(b), order


def test_a_permuted_dictionary_is_itself(rng):
    rows = rng.standard_normal((50, 16))
    order = rng.permutation(50)
    found = match(cosines(rows, 3.0 * rows[order]))
    assert found.row(0.7) == pytest.approx({"matched": 1, "mmcs": 1, "share_above": 1})
    np.testing.assert_array_equal(order[found.b], found.a)


def test_shared_features_are_found_among_others(rng):
    a, b = rng.standard_normal((2, 40, 64))
    b[:10] = a[:10] + 0.1 * rng.standard_normal((10, 64))
    found = match(cosines(a, b))
    assert found.row(0.7)["share_above"] == pytest.approx(0.25)
    assert (found.b[:10] == np.arange(10)).all()
    assert (found.best[:10] > 0.9).all()


def test_a_flipped_row_is_another_feature(rng):
    rows = rng.standard_normal((8, 64))
    assert match(cosines(rows, -rows)).row(0.7)["share_above"] == 0


def test_matching_is_one_to_one_and_best_in_total():
    similarity = np.array([[0.9, 0.8], [0.85, 0.1]])  # greedy would take .9 + .1
    found = match(similarity)
    assert found.similarity.sum() == pytest.approx(1.65)
    assert found.row(0.5)["mmcs"] == pytest.approx(0.875)
    wide = match(np.array([[0.1, 0.9, 0.2]]))
    assert (wide.b.tolist(), len(wide.best)) == ([1], 1)


def test_ochiai_by_hand():
    a = sp.csr_matrix(np.array([[1, 1, 1, 1], [0, 0, 0, 0]]))
    b = sp.csr_matrix(np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(ochiai(a, b), [[0.5, 2 / 8**0.5, 0], [0, 0, 0]])


def test_what_two_seeds_share_is_found_and_the_rest_is_one_subspace(source, two_seeds):
    a, b, order = two_seeds
    found = recurrence(a, b, source, CELLS)
    np.testing.assert_array_equal(found.a, np.arange(16) < SHARED)
    np.testing.assert_array_equal(order[found.pairs[:, 1]], found.pairs[:, 0])
    np.testing.assert_array_equal(found.b, order < SHARED)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-5)
    assert (found.correlation > 0.9).all()
    assert found.subspace > 0.85 > 2.5 * found.chance
    assert found.row()["recur"] == pytest.approx(0.5)
    turned = recurrence(b, a, source, CELLS)
    np.testing.assert_array_equal(found.turned().a, turned.a)
    assert found.turned().row() == pytest.approx(turned.row())


def test_correlations_and_energies_are_those_of_all_codes(source, two_seeds):
    a, b, _ = two_seeds
    found = recurrence(a, b, source, CELLS, batch_size=37)  # whatever the batches
    x, Z = torch.from_numpy(source.x.reshape(-1, WIDTH)), []
    for one in (a, b):
        codes = one.encode(x)
        Z.append(torch.zeros(len(x), 16).scatter(1, codes.indices, codes.values).numpy().astype(float))
    every = np.corrcoef(Z[0].T, Z[1].T)[:16, 16:]
    np.testing.assert_allclose(found.correlation, every[found.pairs[:, 0], found.pairs[:, 1]], atol=1e-6)
    np.testing.assert_allclose(found.energy_a, np.square(Z[0]).mean(0), rtol=1e-5)


def test_a_direction_that_fires_elsewhere_is_another_feature(source):
    rows = source.rows[:8]
    found = recurrence(dictionary(rows), dictionary(source.rows[8:16], decoder=rows), source, CELLS)
    assert len(found.pairs) == 0
    assert found.row()["recur_energy"] == 0


def test_different_subspaces_do_not_overlap(source):
    found = recurrence(dictionary(source.rows[:8]), dictionary(source.rows[8:16]), source, CELLS)
    assert found.subspace == pytest.approx(0, abs=1e-9)
    assert np.isnan(overlap(np.zeros((0, 4)), np.eye(4))).all()


def test_energy_weighs_what_a_feature_adds():
    assert energy_weighted(np.array([1.0, 0.0]), np.array([3.0, 1.0])) == 0.75


def test_a_pool_keeps_first_what_most_members_have(source):
    common = source.rows[:SHARED]
    noise = np.random.default_rng(5)
    members = []
    for seed in range(4):
        own = mixed(source.rows[SHARED:16], 10 + seed)
        near = common + 0.02 * noise.standard_normal(common.shape).astype(np.float32)
        if seed == 3:
            near = near[:-1]  # one of them lacks a feature
        members.append(dictionary(np.concatenate([near, own[: 16 - len(near)]])))
    found = pool(members, source, CELLS)
    assert (found.support[: SHARED - 1] == 1).all()
    assert found.support[SHARED - 1] == 0.75
    assert (np.diff(found.support) <= 0).all()
    nodes = [(m, f) for cluster in found.clusters for m, f in cluster.items()]
    assert len(nodes) == len(set(nodes))
    sae = merged(members, found.clusters[:SHARED])
    best = cosines(common, sae.W_dec.detach().numpy()).max(1)
    alone = cosines(common, members[0].W_dec.numpy()).max(1)
    assert best.mean() > alone.mean()  # a mean over seeds is nearer to the truth than one of them
    np.testing.assert_allclose(sae.W_dec.norm(dim=1).detach().numpy(), 1, rtol=1e-5)


def test_a_merged_feature_of_one_member_is_that_feature(source):
    member = dictionary(2 * source.rows[:8])
    member.b_pre.copy_(torch.ones(WIDTH))
    alone = [{0: f} for f in range(8)]
    sae, x = merged([member], alone), torch.from_numpy(source.x[0])
    np.testing.assert_allclose(sae(x).detach().numpy(), member(x).numpy(), atol=1e-4)


def test_training_goes_on_from_what_it_is_given(source, tmp_path):
    """At a learning rate of almost nothing the SAE that comes out is the one that went in, normalisation and all."""
    start = dictionary(source.rows[:8])
    start.b_enc.copy_(torch.linspace(-0.1, 0.1, 8))
    start.b_dec.copy_(torch.linspace(-1, 1, WIDTH))
    config = SaeConfig(expansion=1, k=4, activation="relu", tokens=400, batch_size=200, lr=1e-12)
    made = train_sae(source, CELLS, config, tmp_path, device=torch.device("cpu"), start=start)
    x = torch.from_numpy(source.x[0])
    assert made.n_features == 8
    np.testing.assert_allclose(made(x).numpy(), start(x).numpy(), atol=1e-4)
