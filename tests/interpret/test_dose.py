"""One feature's dose response: what counts as moved, the nulls, the mirror check."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from steerpipe.interpret.dose import Dose, along, dose_response, matched_features, moved_genes, single_feature, symmetry
from steerpipe.models.preprocess import model_input
from steerpipe.sae.model import TopKSAE
from steerpipe.steering.intervene import CachedCells


@pytest.fixture(scope="module")
def steered(tiny_model):
    """Three cells of the tiny model at block 1, and a random SAE of its width."""
    import scipy.sparse

    counts = scipy.sparse.random(4, tiny_model.n_genes, 0.3, format="csr", dtype=np.float32, random_state=0)
    counts.data = np.ceil(counts.data * 5)
    with torch.no_grad():
        streams = tiny_model.stream(model_input(counts, tiny_model.arch.depth), 1).numpy()
    valid = torch.arange(0, tiny_model.n_genes, 3)
    sae = TopKSAE(32, 64, 6).initialise(0).requires_grad_(False)
    return CachedCells(tiny_model, 1, streams, valid), sae


def test_moved_genes_are_scipys_paired_t_with_bonferroni_and_a_floor(rng):
    before = rng.normal(size=(12, 30))
    after = before + np.linspace(-0.3, 0.3, 30) + rng.normal(size=(12, 30)) * 0.05
    after[:, 0] = before[:, 0]
    p = stats.ttest_rel(after[:, 1:], before[:, 1:]).pvalue
    mean = (after - before).mean(0)[1:]
    expected = np.where((p * 30 < 0.05) & (np.abs(mean) > 0.1), np.sign(mean), 0)
    signs = moved_genes(before, after, 0.1)
    np.testing.assert_array_equal(signs[1:], expected)
    assert signs[0] == 0
    assert {-1, 0, 1} == set(signs.tolist())
    np.testing.assert_array_equal(moved_genes(before, before + 1, 0.1), np.ones(30))  # the same change in every cell


def test_the_random_direction_has_the_features_size_at_every_token(steered):
    cached, sae = steered
    x = torch.from_numpy(cached.streams)[:, cached.valid]
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    f = int(sae.encode(x).indices.flatten().mode().values)
    one, other = single_feature(sae, f, 4.0)(x), along(sae, f, 4.0, direction)(x)
    torch.testing.assert_close(one.norm(dim=-1), other.norm(dim=-1))
    assert (one.norm(dim=-1) > 0).any()
    assert not single_feature(sae, f, 1.0)(x).any()
    unit = direction / direction.norm()
    torch.testing.assert_close(other, (other @ unit)[..., None] * unit, atol=1e-5, rtol=1e-4)


def test_null_features_are_of_like_activity(rng):
    activity = np.r_[0.0, 1.0, 1.1, 0.9, 1.2, 0.8, np.full(20, 50.0), 0.0]
    drawn = [matched_features(activity, 1, 1, rng)[0] for _ in range(30)]
    assert set(drawn) == {2, 3, 4, 5}
    assert len(matched_features(np.array([1.0, 0.0]), 0, 3, rng)) == 0


def test_dose_response(steered, rng):
    cached, sae = steered
    x = torch.from_numpy(cached.streams)[:, cached.valid]
    f = int(sae.encode(x).indices.flatten().mode().values)
    options = {"min_change": 1e-4, "rng": rng, "batch_size": 2}
    dose = dose_response(cached, sae, f, [-5.0, 1.0, 5.0], nulls=np.array([3, 9]), directions=2, **options)
    counts = dose.table.groupby("kind").size()
    assert counts.to_dict() == {"feature": 3, "random direction": 6, "random feature": 6}
    still = dose.table[dose.table["alpha"] == 1]
    assert (still[["up", "down", "shift"]] == 0).all().all()
    own = dose.table[dose.table["kind"] == "feature"].set_index("alpha")
    assert own.loc[-5.0, "shift"] > 0
    assert (dose.moved == 1).sum(1).tolist() == dose.table["up"].tolist()


def test_mirror_images(rng):
    """Alpha 3 raises what -1 lowers; alpha 4 and -2 have nothing in common, and -2 raises nothing."""
    moved = np.zeros((5, 40), np.int8)
    moved[0, :10], moved[1, :10] = 1, -1
    moved[2, 10:20], moved[3, 20:30] = 1, -1
    table = pd.DataFrame({"kind": "feature", "seed": 0, "alpha": [3.0, -1.0, 4.0, -2.0, 1.0], "up": 0, "down": 0, "shift": 0.0})
    library = np.zeros((3, 40), np.int32)
    library[0, :10], library[1, 10:20], library[2, 20:30] = 1, 1, 1
    found = symmetry(Dose(table, moved), sp.csr_matrix(library), np.arange(40), 0.05)
    up = found[found["direction"] == "up"].set_index("alpha")
    assert up.loc[3.0, ["mirror", "gene_overlap", "set_overlap", "sets"]].tolist() == [-1, 1, 1, 1]
    assert up.loc[4.0, ["gene_overlap", "set_overlap"]].tolist() == [0, 0]
    assert found[found["direction"] == "down"]["gene_overlap"].isna().all()
