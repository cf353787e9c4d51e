"""What is wrong is said in one line, in the words of the call; and what the door promises of its imports."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import anndata
import numpy as np
import pytest
import scanpy as sc

import steerpipe as sp
from steerpipe.errors import SteerError
from steerpipe.progress import progress


def normalised(adata, *, raw):
    made = adata.copy()
    if raw:
        made.raw = made.copy()
    sc.pp.normalize_total(made, target_sum=1e4)
    sc.pp.log1p(made)
    return made


FIT = {"source": "T4", "target": "T8", "label": "kind"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, m, s: sp.fit(a, m, s, **FIT | {"label": "kinds"}), "unknown label column 'kinds'; did you mean 'kind'"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT | {"source": "T5"}), r"unknown label in 'kind' 'T5'.* Allowed: T4, T8, other"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT | {"target": "T4"}), r"^source and target share \['T4'\]"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT, objective="latnt"), "unknown objective 'latnt'; did you mean 'latent'"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT, lam=-1), "^lam=-1 must be greater than 0"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT, learnable="some"), "unknown learnable 'some'"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT, learnble="all"), "unknown keyword 'learnble'; did you mean 'learnable'"),
        (lambda a, m, s: sp.fit(a[:12].copy(), m, s, **FIT), "adata has 12 cells; at least 20 are needed"),
        (lambda a, m, s: sp.fit(a, m, s, **FIT, layer=7), "^layer=7 does not exist: the model has blocks 0 to 2"),
        (lambda a, m, s: sp.train_sae(a, m, layer=1, k=1000), "^k=1000 is more than the 256 features of expansion 8"),
        (lambda a, m, s: sp.train_sae(a, m, layer=1, batch="donr"), "unknown label column 'donr'"),
        (lambda a, m, s: sp.embed(a, m, layer=1, counts="count"), "unknown counts 'count'. Allowed: X. Set counts."),
        (lambda a, m, s: sp.embed(a.obs, m), "adata is of type DataFrame; an AnnData is needed"),
        (
            lambda a, m, s: sp.embed(normalised(a, raw=True), m, layer=1),
            "adata does not hold raw counts: X has fractional values .*; counts='raw' would do: it holds counts",
        ),
        (
            lambda a, m, s: sp.embed(normalised(a, raw=False), m, layer=1),
            "adata does not hold raw counts: .*; raw counts are needed, in X, raw or a layer",
        ),
        (lambda a, m, s: sp.load_sae("nowhere.pt"), "no SAE in nowhere.pt"),
        (lambda a, m, s: sp.load_model("/nowhere"), "no config.json in /nowhere"),
        (lambda a, m, s: sp.hold_out(a, share=1.5), r"^hold_out\(share=\.\.\.\)=1.5 must lie in \[0, 1\)"),
        (lambda a, m, s: sp.evaluate(a, m, s, []), "evaluate needs a recipe"),
    ],
)
def test_a_mistake_is_one_line(call, message, adata, model, sae):
    with pytest.raises(SteerError, match=message) as error:
        call(adata, model, sae)
    assert "\n" not in str(error.value)
    assert not re.search(r"\b(dataset|contrast|objective|sae|layer|lambda)\.[a-z]", str(error.value))


def test_recipes_of_one_table_differ_in_objective_and_form_alone(adata, model, sae, recipe):
    other = replace(recipe, lam=replace(recipe.lam, value=0.1))
    with pytest.raises(SteerError, match="differ in more than objective and form"):
        sp.evaluate(adata, model, sae, [recipe, other])
    with pytest.raises(SteerError, match="unknown keyword 'n_permutation'; did you mean 'n_permutations'"):
        sp.evaluate(adata, model, sae, recipe, n_permutation=1)


def test_a_recipe_that_these_cells_do_not_give_is_refused(adata, model, sae, recipe, store):
    rng = np.random.default_rng(0)
    other = anndata.AnnData(adata.X, obs=adata.obs.assign(kind=rng.permutation(adata.obs["kind"])), var=adata.var)
    with pytest.raises(SteerError, match="is not what these cells and this SAE give"):
        sp.evaluate(other, model, sae, recipe, store=store)


def test_the_package_is_light_and_evaluate_is_a_function():
    """`steer --help` must not wait for torch; the subpackage `evaluate` must not hide the function."""
    code = (
        "import sys, steerpipe as sp; assert not {'torch', 'scanpy', 'anndata', 'pandas'} & set(sys.modules); "
        "import steerpipe.evaluate.metrics; sp.load_model; assert callable(sp.evaluate); "
        "from steerpipe.evaluate.metrics import METRICS; assert set(sp.__all__) <= set(dir(sp)); "
        "assert 'hydra' not in sys.modules and 'omegaconf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sp.nothing


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_bars_where_it_can_draw_them(widgets, monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("steerpipe.progress._widgets", lambda: widgets)
    monkeypatch.setattr("rich.live.Live.start", lambda self, refresh=False: None)
    with progress() as bar:
        assert bar.disable is not widgets
