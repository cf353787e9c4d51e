"""Test cells: their share in every stratum, the user's own, and what a contrast makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from steerpipe.config import ContrastConfig, DatasetConfig
from steerpipe.data import split
from steerpipe.data.contrast import side_names, split_contrast
from steerpipe.errors import SteerError

DATASET = DatasetConfig(label="type", batch="donor", groups={"t": ["T1", "T2"]})
CONTRAST = ContrastConfig(source="t", target="B")
HALVES = ContrastConfig(source="t", target=None, halves=True)


@pytest.fixture
def obs(rng):
    """Labels of very different sizes, three donors, in random order."""
    sizes = {"T1": 101, "T2": 34, "B": 60, "rare": 4, "single": 1}
    types = rng.permutation(np.repeat(list(sizes), list(sizes.values())))
    return pd.DataFrame({"type": types, "donor": rng.choice(["x", "y", "z"], len(types), p=[0.7, 0.25, 0.05])})


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_every_stratum_gives_its_share_to_within_a_cell(obs, share):
    for seed in range(20):
        marked = obs.assign(test=split.test_cells(obs, replace(DATASET, test_share=share, split_seed=seed)))
        for by in ("type", ["type", "donor"]):
            groups = marked.groupby(by)["test"]
            assert (groups.sum() - share * groups.size()).abs().max() < 1
        assert abs(marked["test"].sum() - share * len(obs)) < 1


def test_every_cell_is_a_test_cell_as_often_as_any_other(obs):
    often = np.mean([split.test_cells(obs, replace(DATASET, split_seed=seed)) for seed in range(600)], axis=0)
    assert often.mean() == pytest.approx(0.3, abs=0.01)
    assert np.abs(often - 0.3).max() < 4.5 * np.sqrt(0.21 / 600)
    assert not np.array_equal(*(split.test_cells(obs, replace(DATASET, split_seed=seed)) for seed in (0, 1)))


def test_positions_are_ascending_disjoint_and_the_same_again(obs):
    fit, test = split.fit_and_test(obs, DATASET)
    assert np.array_equal(np.sort(np.concatenate([fit, test])), np.arange(len(obs)))
    assert (np.diff(fit) > 0).all()
    assert (np.diff(test) > 0).all()
    assert fit.dtype == test.dtype == np.int64
    for a, b in zip((fit, test), split.fit_and_test(obs.astype("category"), DATASET), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(split.fit_and_test(obs, DatasetConfig())[1]) == 60  # no labels: one stratum
    assert not split.test_cells(obs, replace(DATASET, test_share=0)).any()


@pytest.mark.parametrize("marks", [(False, True), ("False", "TRUE"), ("train", "Test")])
def test_the_users_own_split_wins(obs, marks):
    own = np.arange(len(obs)) % 7 == 0
    obs["mine"] = np.array(marks)[own.astype(int)]
    np.testing.assert_array_equal(split.test_cells(obs, replace(DATASET, test="mine", test_share=0.0)), own)


def test_mistakes_are_said(obs):
    obs["mine"] = ["maybe"] + ["train"] * (len(obs) - 1)
    with pytest.raises(SteerError, match=r"dataset\.test=mine holds 'maybe'; allowed in that column: true and false, or"):
        split.test_cells(obs, replace(DATASET, test="mine"))
    with pytest.raises(SteerError, match=r"unknown column dataset\.test 'mime'; did you mean 'mine'"):
        split.test_cells(obs, replace(DATASET, test="mime"))
    with pytest.raises(SteerError, match="none is left to fit on"):
        split.test_cells(obs.assign(mine=True), replace(DATASET, test="mine"))


@pytest.mark.parametrize("contrast", [CONTRAST, HALVES], ids=["contrast", "halves"])
def test_a_contrast_takes_its_cells_from_the_datasets_split(obs, contrast):
    found = split_contrast(obs, contrast, DATASET)
    fit, test = split.fit_and_test(obs, DATASET)
    sides = [found.source_fit, found.source_held, found.target_fit, found.target_held]
    assert set(found.source_fit) | set(found.target_fit) <= set(fit)
    assert set(found.source_held) | set(found.target_held) <= set(test)
    wanted = obs["type"].isin(["T1", "T2"] if contrast.halves else ["T1", "T2", "B"])
    assert sorted(np.concatenate(sides)) == np.flatnonzero(wanted).tolist()  # each once
    assert all((np.diff(side) > 0).all() for side in sides)
    if not contrast.halves:
        assert (obs["type"].iloc[found.target] == "B").all()


def test_halves_are_even_and_dealt_apart_for_test_cells(obs):
    found = split_contrast(obs, HALVES, DATASET)
    assert abs(len(found.source_fit) - len(found.target_fit)) <= 1
    assert abs(len(found.source_held) - len(found.target_held)) <= 1
    fit = np.sort(np.concatenate([found.source_fit, found.target_fit]))
    fewer = obs.drop(index=found.source_held[:9]).reset_index(drop=True)  # other test cells, the same cells to fit
    marks = np.isin(np.arange(len(obs)), split.fit_and_test(obs, DATASET)[1])
    fewer["mine"] = np.delete(marks, found.source_held[:9])
    again = split_contrast(fewer, HALVES, replace(DATASET, test="mine"))
    rank = {cell: i for i, cell in enumerate(fit)}
    of = np.sort(np.concatenate([again.source_fit, again.target_fit]))
    np.testing.assert_array_equal([rank[c] for c in found.source_fit], np.searchsorted(of, again.source_fit))
    other = split_contrast(obs, replace(HALVES, seed=1), DATASET)
    assert not np.array_equal(other.source_fit, found.source_fit)
    shared = np.intersect1d(other.source_fit, found.source_fit)
    assert 0.15 < len(shared) / len(fit) < 0.35  # two independent deals share a quarter of the cells


def test_a_cap_keeps_the_share_and_no_test_cell_decides(obs):
    obs["mine"] = split.test_cells(obs, DATASET)
    dataset = replace(DATASET, test="mine")
    capped, whole = (split_contrast(obs, CONTRAST, dataset, max_cells=n) for n in (40, None))
    assert (len(capped.source_fit), len(capped.source_held)) == (28, 12)
    assert set(capped.source) <= set(whole.source)
    assert (len(capped.target_fit), len(capped.target_held)) == (28, 12)
    assert set(capped.target) <= set(whole.target)
    away = obs.copy()  # test cells of other labels
    away.loc[whole.source_held[:15], "type"] = "rare"
    again = split_contrast(away, CONTRAST, dataset, max_cells=40)
    np.testing.assert_array_equal(again.source_fit, capped.source_fit)


@pytest.mark.parametrize(
    ("dataset", "contrast", "message"),
    [
        (DATASET, replace(CONTRAST, target="rare"), r"contrast.target=\['rare'\] has 4 cells; at least 10 are needed"),
        (replace(DATASET, test_share=0.0), CONTRAST, r"has no test cells, so nothing can be scored: set dataset.test_share"),
        (replace(DATASET, test_share=0.03), CONTRAST, r"contrast.target=\['B'\] has [12] test cells; scores need 3 or more"),
        (replace(DATASET, test_share=0.97), CONTRAST, r"cells to fit on; at least 5 are needed: lower dataset.test_share"),
        (replace(DATASET, test_share=0.03), HALVES, r"contrast.source=\['T1', 'T2'\], one half, has [12] test cells"),
    ],
)
def test_too_few_cells_are_refused_when_scored(obs, dataset, contrast, message):
    with pytest.raises(SteerError, match=message):
        split_contrast(obs, contrast, dataset, scored=True)
    if "test cells" in message:
        split_contrast(obs, contrast, dataset)


def test_names_of_the_sides():
    assert side_names("cd4", ["CD8", "NK"]) == ("cd4", "CD8 + NK")
    assert side_names("cd4", None, halves=True) == ("cd4, half", "other half")
