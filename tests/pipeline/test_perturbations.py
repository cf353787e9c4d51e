"""Perturbation datasets: names, held-out perturbations, and a model of the dataset's own panel that never saw them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from steerpipe.cli.hydra import compose
from steerpipe.commands import pretrain as command
from steerpipe.config import DatasetConfig
from steerpipe.data import datasets
from steerpipe.data.perturbations import perturbations, perturbed_genes
from steerpipe.data.split import test_cells as split_of
from steerpipe.errors import SteerError
from steerpipe.pipeline import pretrained as stage
from steerpipe.pipeline.activations import Activations, load_cells
from steerpipe.store import Store

from ..made import Made, a_run

N, GENES = 160, [f"RP11-{i}.4" for i in range(210)]
NAMES = ["NT", "STAT1", "JAK2", "KLF1+MAP2K6", "CBL_ctrl"]
TINY = ["pretrain.steps=2", "pretrain.full_steps=0", "pretrain.teacher_steps=2", "pretrain.batch_size=4"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """160 cells of four perturbations and a control, of genes that no list has; every cell's number is in its first gene."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (N, len(GENES))).astype(np.float32)
    counts[:, 0] = 1 + np.arange(N)
    obs = pd.DataFrame({"guide": [NAMES[i % 5] for i in range(N)]}, index=[f"c{i}" for i in range(N)])
    path = tmp_path_factory.mktemp("crispr") / "crispr.h5ad"
    AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES)).write_h5ad(path)
    return path


def words(file, *more):
    given = [f"dataset.path={file}", "dataset.label=guide", "dataset.perturbation=guide", "dataset.control=NT"]
    return ["dataset=h5ad", *given, "pretrain=panel", *more]


@pytest.mark.parametrize(
    ("name", "genes"),
    [("STAT1", ("STAT1",)), ("KLF1+MAP2K6", ("KLF1", "MAP2K6")), ("CBL_CNN1", ("CBL", "CNN1")), ("CBL_ctrl", ("CBL",))],
)
def test_names_of_singles_and_doubles(name, genes):
    assert perturbed_genes(name) == genes


def test_every_cell_of_a_held_perturbation_is_a_test_cell(file):
    obs = read_h5ad(file).obs
    config = compose(*words(file, "dataset.held=[JAK2]")).dataset
    test, without = split_of(obs, config), split_of(obs, compose(*words(file)).dataset)
    jak2 = (obs["guide"] == "JAK2").to_numpy()
    assert test[jak2].all()
    assert (test == without)[~jak2].all()
    table = perturbations(obs, config, test).set_index("name")
    assert table.index[0] == "NT"
    assert table["held"].to_dict() == {name: name == "JAK2" for name in table.index}
    assert (table["fit"] + table["test"] == table["cells"]).all()
    assert table.loc["CBL_ctrl", "genes"] == ("CBL",)
    assert table.loc["NT", "genes"] == ()


def test_what_is_fitted_has_another_key_where_other_perturbations_are_held(file):
    obs, keys = read_h5ad(file).obs, set()
    for more in ([], ["dataset.held=[JAK2]"], ["dataset.held=[STAT1]"]):
        test = split_of(obs, compose(*words(file, *more)).dataset)
        keys.add(Activations(None, obs, GENES, None, np.flatnonzero(~test), np.flatnonzero(test), 1, None).split_key)
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["dataset.held=[JAK3]"], "unknown perturbation in dataset.held 'JAK3'; did you mean 'JAK2'"),
        (
            ["dataset.held=[JAK2]", "dataset.perturbation=gide"],
            "unknown column dataset.perturbation 'gide'; did you mean 'guide'",
        ),
        (["dataset.control=NTT"], "unknown dataset.control in 'guide' 'NTT'; did you mean 'NT'"),
        (["dataset.control=null"], "dataset.control must name the cells"),
    ],
)
def test_wrong_names_are_one_line(file, more, message):
    obs = read_h5ad(file).obs
    config = compose(*words(file, *more)).dataset

    def found():
        return perturbations(obs, config, split_of(obs, config))

    with pytest.raises(SteerError, match=message) as error:
        found()
    assert "\n" not in str(error.value)


def test_held_perturbations_need_their_column():
    with pytest.raises(SteerError, match=r"say in dataset\.perturbation which"):
        DatasetConfig(held=["STAT1"])


def test_a_model_of_the_own_panel_never_sees_what_is_held_out(file, tmp_path, monkeypatch):
    """Model, dictionary and adapters read the split of one function: the model's cells are counted here, one by one."""
    config = compose(*words(file, "dataset.held=[JAK2]", *TINY))
    seen, pretrain = [], stage.pretrain

    def spied(model, counts, *args, **options):
        seen.append(counts)
        return pretrain(model, counts, *args, **options)

    monkeypatch.setattr(stage, "pretrain", spied)
    context = Made(config, Store(tmp_path / "store"), run=a_run(tmp_path / "run"))
    with context.run:
        command.main(context, context.run)
    obs = read_h5ad(file).obs
    allowed = ~split_of(obs, config.dataset)
    cells = seen[0][:, 0].astype(int) - 1
    assert sorted(cells) == np.flatnonzero(allowed).tolist()
    assert "JAK2" not in set(obs["guide"].iloc[cells])
    model = stage.trained(context).path
    assert (model / "genes.txt").read_text().split() == GENES
    assert load_cells(config, tuple(GENES)).shape == (N, len(GENES))
    card = (context.run.path / "model_card.txt").read_text()
    assert "it is not AIDO.Cell" in card
    assert f"Trained on {allowed.sum()} cells" in card
    assert "held-out perturbations: JAK2" in card
    masked = pd.read_csv(context.run.path / "masked.csv")
    assert masked["predictor"].tolist() == ["model", "gene mean", "ridge", "kNN"]
    other = Made(compose(*words(file, *TINY)), context.store, run=context.run)
    assert stage.trained(other).key != stage.trained(context).key


def test_another_file_than_the_configured_one_is_seen_whole(file):
    config = compose("pretrain=panel", "pretrain.dataset=h5ad", f"pretrain.path={file}")
    assert not stage.own_cells(config)
    assert [one.n_obs for one in stage.training_data(config)] == [N]
    assert stage.own_cells(compose(*words(file, f"pretrain.path={file}")))


def test_names_with_spaces_make_no_panel():
    from steerpipe.pretraining.panel import whole_panel

    assert whole_panel(["A", "ENSG00000010610.9", "A", "B-1"]) == ["A", "CD4", "B-1"]
    with pytest.raises(SteerError, match="gene name 'two words' has a space"):
        whole_panel(["A", "two words"])


@pytest.mark.data
def test_the_shipped_choices():
    table = {}
    for name in ("papalexi", "norman", "kang_ifnb"):
        config = compose(f"dataset={name}").dataset
        obs = datasets.load(config).obs
        table[name] = perturbations(obs, config, split_of(obs, config))
    assert len(table["papalexi"]) == 26
    assert table["papalexi"]["cells"].sum() == 16_192
    assert (table["norman"]["genes"].str.len() == 2).sum() == 15
    assert table["norman"]["cells"].sum() == 3375
    assert table["kang_ifnb"]["name"].tolist() == ["CTRL", "STIM"]
