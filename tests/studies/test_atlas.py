"""`steer atlas`: planted shares come back, halves of one dataset are told to be one, and depth alone is said to be depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from steerpipe.activations.joined import Joined, SomeGenes, equal_shares
from steerpipe.activations.plan import PlannedBlock
from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.config import SaeConfig
from steerpipe.config.choices import named_dataset
from steerpipe.errors import SteerError
from steerpipe.evaluate.atlas import (
    by_tissue,
    code_similarity,
    depth_aurocs,
    depth_matched,
    normalised,
    null_shares,
    shares,
    verdict,
)
from steerpipe.models.aido_cell import ArchConfig
from steerpipe.sae.train import train_sae
from steerpipe.store import Store
from steerpipe.studies.atlas import compute, plan, study
from steerpipe.studies.atlas.tissues import find_tissues

from ..made import Made, a_run, maker, refused
from .planted_atlas import two_tissues


@pytest.fixture(scope="module")
def files(cells, tmp_path_factory):
    """B cells and monocytes as two tissues, each a file of its own genes; and one file with a column of random halves."""
    folder = tmp_path_factory.mktemp("atlas")
    labels = cells.obs["bulk_labels"].astype(str).to_numpy()
    rng = np.random.default_rng(0)
    some = cells.copy()
    some.obs["half"] = rng.permutation(np.arange(len(some)) % 2).astype(str)
    some.obs["kind"] = np.where(np.isin(labels, ["CD14+ Monocyte", "Dendritic"]), "myeloid", "lymphoid")
    for name, wanted, genes in (("myeloid", True, slice(0, 600)), ("lymphoid", False, slice(100, None))):
        some[(some.obs["kind"] == "myeloid").to_numpy() == wanted, genes].copy().write_h5ad(folder / f"{name}.h5ad")
    some.write_h5ad(folder / "both.h5ad")
    return folder


@pytest.fixture(scope="module")
def make(files, tiny_folder, tmp_path_factory):
    words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "sae.tokens=40000", "dataset=h5ad"]
    words += [f"dataset.path={files / 'both.h5ad'}", "dataset.label=bulk_labels", "dataset.max_cells=null", "score.cells=4"]
    return maker(tmp_path_factory.mktemp("study"), *words, "atlas.cells=60")


def test_planted_shares_come_back_and_dealt_tissues_have_nothing_specific(tmp_path):
    for shared, private in ((12, 6), (18, 3)):
        joined = Joined(two_tissues(shared, private))
        train_on = np.concatenate([np.arange(150), 200 + np.arange(150)])
        config = SaeConfig(expansion=1, k=3, tokens=200_000, batch_size=512, lr=3e-3)
        folder = tmp_path / str(shared)
        folder.mkdir()
        sae = train_sae(joined, train_on, config, folder, device=torch.device("cpu"))
        rates = []
        for tokens in joined.cells(np.r_[150:200, 350:400]):
            codes = sae.encode(torch.from_numpy(tokens))
            on = codes.indices[codes.values != 0]
            rates.append(torch.bincount(on, minlength=sae.n_features).numpy() / len(tokens))
        which = np.repeat(["a", "b"], 50)
        found = shares(by_tissue(np.array(rates), which)["kind"])
        assert found["specific"] == pytest.approx(2 * private / (shared + 2 * private), abs=0.05)
        assert found["universal"] == pytest.approx(shared / (shared + 2 * private), abs=0.05)
        null = null_shares(np.array(rates), which, 10, np.random.default_rng(0))
        assert null["specific"].max() < 0.02


def test_features_by_tissue_by_hand():
    rates = np.array([[0.2, 0.4, 0.4, 0, 0.03], [0.2, 0.4, 0.4, 0, 0.03], [0.3, 0, 0.1, 0, 0], [0.1, 0, 0.2, 0, 0.009]])
    table = by_tissue(rates, ["b", "b", "a", "a"])
    assert table["kind"].tolist() == ["universal", "specific", "specific", "silent", "specific"]
    assert table["highest"].tolist()[1:3] == ["b", "b"]
    assert table["auroc"].tolist()[:3] == [0.5, 1, 1]
    assert table["entropy"].tolist()[0] == pytest.approx(1)
    assert table["entropy"].tolist()[1] == pytest.approx(0)
    assert shares(table["kind"])["specific"] == 0.75
    rare = np.zeros((40, 1))
    rare[0] = 0.5  # fires in one cell: that says nothing of its tissue
    assert by_tissue(rare, np.repeat(["a", "b"], 20))["kind"].tolist() == ["shared"]


def test_depth_by_hand():
    rng = np.random.default_rng(0)
    which = np.repeat(["deep", "shallow"], 100)
    apart = np.concatenate([rng.integers(9000, 9999, 100), rng.integers(100, 200, 100)])
    assert depth_matched(apart, which, rng) is None
    assert depth_aurocs(apart, which) == {"deep": 1, "shallow": 1}
    near = rng.integers(1000, 2000, 200)
    kept = depth_matched(near, which, rng)
    assert (which[kept] == "deep").sum() == (which[kept] == "shallow").sum() > 60
    # what only follows depth is specific as it is, and no longer so at equal depth
    both = np.concatenate([rng.integers(1000, 3000, 100), rng.integers(300, 1500, 100)])
    rates = 1e-3 * (both[:, None] > 1500) + 1e-6
    assert by_tissue(rates, which)["kind"].tolist() == ["specific"]
    kept = depth_matched(both, which, rng)
    assert by_tissue(rates[kept], which[kept])["kind"].tolist() != ["specific"]


def test_similarity_and_verdict_by_hand():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((500, 6))
    order = rng.permutation(6)
    assert code_similarity(codes, codes[:, order]) == pytest.approx(1)
    assert code_similarity(codes, rng.standard_normal((500, 6))) < 0.2
    assert code_similarity(codes, np.zeros((500, 6))) == 0
    np.testing.assert_allclose(
        normalised(np.array([[0.5, 0.4], [0.4, 0.8]])), [[1, 0.4 / np.sqrt(0.4)], [0.4 / np.sqrt(0.4), 1]]
    )
    assert verdict(0.019, 0.01, 0.95) == "generalises"
    assert verdict(0.5, 0.01, 0.95) == verdict(0.0, 0.01, 0.5) == "partly"
    assert verdict(0.5, 0.01, 0.5) == verdict(1.5, 0.01, 1.0) == "needs its own"


def test_joined_tokens_are_those_of_their_sources():
    one, two = two_tissues(n_cells=5)
    joined = Joined([one, SomeGenes(two, np.array([0, 3, 39]))])
    some = np.array([0, 4, 5, 9])
    np.testing.assert_array_equal(joined.lengths(some), [40, 40, 3, 3])
    cells, columns = joined.cells(some), joined.columns(some)
    np.testing.assert_array_equal(cells[1], one.cells(np.array([4]))[0])
    np.testing.assert_array_equal(cells[2], two.cells(np.array([0]))[0][[0, 3, 39]])
    np.testing.assert_array_equal(columns[3], [0, 1, 2])
    picked = equal_shares([one, SomeGenes(two, np.arange(20))], [np.arange(5), np.arange(5)], np.random.default_rng(0))
    assert [len(some) for some in picked] == [2, 5]  # 40 tokens a cell, and 20


@pytest.fixture(scope="module")
def halves(make):
    context = make("atlas.split=half", "atlas.seeds=[0,1,2]")
    command.main("atlas", context, context.run)
    return context


def test_two_halves_of_one_dataset_generalise_and_have_nothing_of_their_own(halves):
    table = pd.read_csv(halves.run.path / "pairs.csv", dtype={"of": str, "on": str})
    cross = table[table["verdict"].notna() & (table["of"] != table["on"])]
    assert len(cross) == 2
    assert cross["excess"].abs().max() < 0.1
    assert cross[["cosine", "codes"]].min().min() > 0.85
    features = pd.read_csv(halves.run.path / "shares.csv").set_index("cells")
    assert features.loc["all", "specific"] <= features.loc["tissues dealt anew", "hi"] + 0.02
    said = (halves.run.path / "conclusion.txt").read_text()
    assert "rule: generalises if" in said
    assert "Depth alone" not in said
    assert (halves.run.path / "plots" / "atlas.png").stat().st_size > 1000


def test_no_dictionary_saw_a_test_cell_of_any_part(halves):
    tissues = find_tissues(halves)
    test = np.concatenate([one.source.test for one in tissues])
    for one in tissues:
        assert not set(one.source.fit) & set(test)
        assert set(one.some) <= set(one.source.test)
        half = one.source.obs["half"].to_numpy()
        assert set(half[one.source.fit]) == set(half[one.source.test]) == {one.name}


def test_two_files_meet_at_the_genes_that_both_have_and_recipes_are_carried(make, files, monkeypatch):
    words = [
        f"atlas.datasets=[{files / 'myeloid.h5ad'},{files / 'lymphoid.h5ad'}]",
        "atlas.fidelity=false",
        "atlas.seeds=[0,1]",
    ]
    context = make(*words, "atlas.match_label=cd")
    tissues = find_tissues(context)
    genes = [{one.source.genes[i] for i in one.genes} for one in tissues]
    assert genes[0] == genes[1] == set(tissues[0].source.genes) & set(tissues[1].source.genes)
    assert min(len(one.source.genes) for one in tissues) > len(genes[0])
    command.main("atlas", context, context.run)
    table = pd.read_csv(context.run.path / "pairs.csv")
    cross = table[(table["of"] != table["on"]) & table["verdict"].notna()]
    assert (cross["excess"] > cross["noise"]).all()
    features = pd.read_csv(context.run.path / "shares.csv").set_index("cells")
    assert features.loc["all", "specific"] > features.loc["tissues dealt anew", "hi"] + 0.1  # monocytes are no T cells
    log = (context.run.path / "conclusion.txt").read_text()
    assert "'cd'" in log
    # a dictionary is that of train-sae on the file itself: nothing is trained twice
    own = replace(context.config, dataset=tissues[0].context.config.dataset)
    before = {path.name for path in context.store.root.glob("train-sae/*")}
    compute.dictionaries([tissues[0]], [own.sae.seed])
    assert {path.name for path in context.store.root.glob("train-sae/*")} == before


def test_recipes_are_carried_where_both_have_the_labels(make, files):
    words = [f"atlas.datasets=[{files / 'lymphoid.h5ad'},{files / 'both.h5ad'}]", "atlas.fidelity=false"]
    words += ["atlas.pooled=false"]
    words += ["contrast.source=CD19+ B", "contrast.target=[CD8+ Cytotoxic T,CD8+/CD45RA+ Naive Cytotoxic]", "atlas.seeds=[0,1]"]
    context = make(*words, "evaluate.n_permutations=4", "lambda.value=0.1")
    command.main("atlas", context, context.run)
    table = pd.read_csv(context.run.path / "recipes.csv")
    layer = table[table["space"] == "layer"].set_index(["of", "on"])
    assert len(layer) == 4
    assert layer["gap"].notna().all()
    assert layer["gap_p"].between(0.19, 1).all()  # of 5, 1/5 is the least
    said = (context.run.path / "conclusion.txt").read_text()
    assert "Recipes carried to another tissue" in said


def test_datasets_by_name_are_those_of_their_group(tmp_path):
    base = compose("dataset.max_cells=50", "dataset.test_share=0.4").dataset
    for name in ("pbmc3k", "kang_ifnb", "gut_scp1884", "nsclc", "pollen", "papalexi"):
        alone = compose(f"dataset={name}", "dataset.max_cells=50", "dataset.test_share=0.4").dataset
        assert named_dataset(name, base, "atlas.datasets") == alone
    path = tmp_path / "cells.h5ad"
    path.touch()
    file = named_dataset(str(path), base, "atlas.datasets")
    assert (file.name, file.path, file.label) == ("h5ad", str(path), base.label)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "atlas needs tissues: name datasets"),
        (
            ["atlas.datasets=[pbmc3k,gut_scp1885]"],
            "unknown dataset in atlas.datasets 'gut_scp1885'; did you mean 'gut_scp1884'",
        ),
        (["atlas.split=tisue"], "unknown column atlas.split 'tisue'"),
        (
            ["atlas.split=half", "atlas.min_cells=4000"],
            r"has 0 values with atlas.min_cells=4000 .* There are: 0 \(",
        ),
        (["atlas.split=half", "sae.centre=gene"], "take sae.centre=none"),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(make, tmp_path, words, message):
    refused(study, make(*words), tmp_path, message)


@pytest.mark.parametrize(
    "words", [["atlas.datasets=[a]"], ["atlas.seeds=[1]"], ["atlas.split=x", "atlas.datasets=[a,b]"], ["atlas.datasets=[a,a]"]]
)
def test_settings_that_make_no_sense_are_refused(words):
    with pytest.raises(SteerError, match=r"atlas\.(datasets|seeds|split)"):
        compose(*words)


def test_the_plan_counts_trainings():
    config = compose("atlas.datasets=[pbmc3k,gut_scp1884]", "sae.tokens=1000", "score.cells=10")
    _, numbers = plan.cost(config, PlannedBlock(ArchConfig(32, 6, 2, 48, 10), ("A",) * 10, 0.5, 2))
    assert numbers["plan/atlas_trainings"] == 2 * 3 + 2
    assert numbers["plan/atlas_tokens"] == (2 * 3 + 1 + 2) * 1000


@pytest.mark.data
def test_read_counts_are_told_by_their_depth(tmp_path):
    context = Made(
        compose("debug=small", "atlas.datasets=[pollen,nsclc]", "dataset.max_cells=80", "atlas.fidelity=false",
                "atlas.carry=false", "atlas.cells=20", "atlas.pooled=false", "extract.tokens=sample", "extract.n_tokens=64"),
        Store(tmp_path / "store"), run=a_run(tmp_path / "run"),
    )  # fmt: skip
    command.main("atlas", context, context.run)
    said = (context.run.path / "conclusion.txt").read_text()
    assert "Depth alone tells" in said
    assert "equal depth: too few cells are left" in said
