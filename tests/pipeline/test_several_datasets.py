"""`steer pretrain pretrain.datasets=[...]`: one model of several datasets, none of whose test cells it sees."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from steerpipe.cli.hydra import compose
from steerpipe.commands import pretrain as command
from steerpipe.config.choices import named_dataset
from steerpipe.config.pretraining import Recipe
from steerpipe.data import datasets
from steerpipe.data.counts import read_rows
from steerpipe.data.genes import align, gene_list
from steerpipe.data.split import fit_and_test
from steerpipe.errors import SteerError
from steerpipe.pipeline import pretrained as stage
from steerpipe.pretraining.panel import build_panel, marker_genes
from steerpipe.pretraining.thinning import Mixture, ThinnedCells
from steerpipe.store import Store

from ..made import Made, a_run

BLOOD = "pbmc68k_reduced"
TINY = ["pretrain.steps=2", "pretrain.full_steps=0", "pretrain.teacher_steps=2", "pretrain.batch_size=4"]
TINY += ["pretrain.panel_size=300", "pretrain.settle_steps=0", "pretrain.finish_steps=0"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The embedded cells seen through two thirds of their genes, as another tissue."""
    adata = datasets.load(compose(f"dataset={BLOOD}").dataset)
    genes = np.arange(adata.n_vars) % 3 > 0
    path = tmp_path_factory.mktemp("several") / "other.h5ad"
    obs = pd.DataFrame({"bulk_labels": adata.obs["bulk_labels"].astype(str)}, index=adata.obs_names)
    AnnData(read_rows(adata.X, slice(None))[:, genes], obs=obs, var=adata.var.loc[genes, []]).write_h5ad(path)
    return path


def test_every_dataset_is_drawn_as_often_and_its_missing_genes_are_none():
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1], [400, 40])
    measured = np.array([np.ones(50, bool), np.arange(50) < 30])
    data = ThinnedCells(rng.poisson(3.0, (440, 50)), Recipe(small_panel=0.0, context=50), mixture=Mixture(of, measured))
    cells = np.concatenate([data.choose(rng, np.arange(440), 8) for _ in range(100)])
    assert 0.4 < (of[cells] == 0).mean() < 0.6
    some = np.arange(396, 404)
    batch = data.draw(rng, some, full=True)
    assert (batch.present.numpy() == measured[of[some]]).all()
    assert not (batch.masked & ~batch.present).any()
    assert (data.sample(rng, some).deep[of[some] == 1][:, 30:] == 0).all()


def test_the_panel_has_genes_that_vary_in_one_dataset_alone():
    names, rng = gene_list()[5000:5400], np.random.default_rng(0)
    rate = np.exp(rng.normal(1.0, 0.7, 400))
    flat, other = (rng.poisson(rate, (300, 400)).astype(np.float32) for _ in range(2))
    flat[:, :10] *= 3 * (rng.random((300, 1)) < 1 / 3)
    other[:, 10:20] *= 3 * (rng.random((300, 1)) < 1 / 3)
    parts = [AnnData(counts, var=pd.DataFrame(index=list(names))) for counts in (flat, other)]
    size = len(marker_genes()) + 20
    both, one = (set(build_panel(some, [], size=size)) for some in (parts, parts[:1]))
    for of_one in (names[:10], names[10:20]):
        assert len(set(of_one) & both) >= 7
    assert len(set(names[10:20]) & one) <= 2


def test_no_test_cell_of_any_dataset_is_trained_on(file, tmp_path, monkeypatch):
    config = compose(f"dataset={BLOOD}", f"pretrain.datasets=[{BLOOD},{file}]", *TINY)
    seen, pretrain = [], stage.pretrain

    def spied(model, counts, *args, **options):
        seen.append((model.genes, counts, options["mixture"]))
        return pretrain(model, counts, *args, **options)

    monkeypatch.setattr(stage, "pretrain", spied)
    monkeypatch.setattr(command, "CELLS", 12)
    context = Made(config, Store(tmp_path / "store"), run=a_run(tmp_path / "run"))
    with context.run:
        command.main(context, context.run)
    ((genes, counts, mixture),) = seen
    for number, name in enumerate((BLOOD, str(file))):
        own = named_dataset(name, config.dataset, "pretrain.datasets")
        adata = datasets.load(own)
        fit, test = fit_and_test(adata.obs, own)
        assert len(test)
        among = align(adata.var_names, genes)
        expected = among.apply(read_rows(adata.X, fit)).toarray()
        assert (counts[mixture.of == number] == expected).all()
        assert (mixture.measured[number] == among.valid).all()
    assert mixture.measured[1].sum() < mixture.measured[0].sum()
    table = pd.read_csv(context.run.path / "masked.csv")
    assert table["dataset"].tolist() == [BLOOD, "other"]
    assert table[["model", "ridge", "kNN", "mini"]].notna().all(axis=None)
    card = (context.run.path / "model_card.txt").read_text()
    assert f"Trained on {len(counts)} cells of {BLOOD}, other: test cells of each stayed out." in card
    again = Made(compose(f"dataset={BLOOD}", f"pretrain.datasets=[{BLOOD}]", *TINY), context.store, run=context.run)
    assert stage.trained(again).key != stage.trained(context).key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain.datasets=[pbmc3kk]"], "unknown dataset in pretrain.datasets 'pbmc3kk'; did you mean 'pbmc3k'"),
        (["pretrain.datasets=[pbmc3k,/nowhere.h5ad]"], "/nowhere.h5ad in pretrain.datasets does not exist"),
        (["pretrain.datasets=[pbmc3k]", "pretrain.path=x.h5ad"], "name the file in pretrain.datasets"),
        (["pretrain.datasets=[pbmc3k]", "pretrain.panel=all"], "take pretrain.panel=variable"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path):
    with pytest.raises(SteerError, match=message) as told:
        stage.trained(Made(compose(*words), Store(tmp_path), run=None))
    assert "\n" not in str(told.value)
