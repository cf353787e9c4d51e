"""Nothing that is fitted knows of the test cells: without them, or with others in their place, not a byte of it changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from steerpipe.cli.hydra import compose
from steerpipe.pipeline import annotation as annotate
from steerpipe.pipeline import baseline_dictionaries as baselines
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.fit import fit
from steerpipe.pipeline.null import null_recipes
from steerpipe.pipeline.recurrence import feature_stability
from steerpipe.run import Run
from steerpipe.store import Store

from ..made import Made

GROUPS = {
    "A": ["CD4+/CD25 T Reg", "CD4+/CD45RO+ Memory", "CD4+/CD45RA+/CD25- Naive T"],
    "B": ["CD8+ Cytotoxic T", "CD8+/CD45RA+ Naive Cytotoxic"],
    "C": ["CD14+ Monocyte", "Dendritic", "CD56+ NK"],
}
SIZES = {"A": (40, 13), "B": (40, 12), "C": (20, 6)}
N = 100
OBJECTIVES = ("latent", "expression")


@pytest.fixture(scope="module")
def marked(cells):
    """100 cells of three labels, of which 31 are marked as test cells."""
    rng = np.random.default_rng(0)
    chosen = []
    for name, (size, n_test) in SIZES.items():
        members = rng.permutation(np.flatnonzero(cells.obs["bulk_labels"].isin(GROUPS[name])))[:size]
        chosen += [(cell, name, "test" if i < n_test else "train") for i, cell in enumerate(members)]
    positions, types, marks = zip(*sorted(chosen), strict=True)
    some = cells[list(positions)].copy()
    some.obs = pd.DataFrame({"type": types, "mine": marks}, index=some.obs_names)
    return some


@pytest.fixture(scope="module")
def fitted(tiny_folder, tmp_path_factory):
    """A function that runs everything which is fitted, and returns its arrays and tables by name."""

    def make(adata: AnnData, *words: str):
        folder = tmp_path_factory.mktemp("leaks")
        adata.copy().write_h5ad(folder / "cells.h5ad")  # which makes labels categories
        run = Run(folder / "run", "test", {})
        run.path.mkdir()
        small = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=null"]
        data = ["dataset=h5ad", f"dataset.path={folder}/cells.h5ad", "dataset.label=type"]
        contrast = ["contrast=labels", "contrast.source=A", "contrast.target=B"]
        rest = [
            "sae.tokens=16000",
            "annotate.min_size=3",
            "annotate.n_random=2",
            "evaluate.n_genes=20",
            "lambda.value=0.2",
            "stability.seeds=[0,1]",
        ]
        context = Made(compose(*small, *data, *contrast, *rest, *words), Store(folder / "store"), run=run)
        annotated = annotate.annotation(context)
        experiment = prepare(context)
        _, others = baselines.baselines(context, experiment.activations, experiment.dictionary)
        weights = (experiment.dictionary.artefact.path / "sae_weights.safetensors").read_bytes()
        found = {"weights": np.frombuffer(weights, np.uint8), "features": annotated.features, "terms": annotated.enrichment}
        found |= {"types": annotated.types, "sums": np.asarray(annotated.activity.sums)}
        found |= {"scores": pd.DataFrame([annotated.scores]), "expression": annotate.inputs(context).expression}
        found |= {"stability": feature_stability(context, experiment.activations, experiment.dictionary, cells="fit")[1]}
        found |= {f"baseline {name}": each.W_dec.numpy() for name, each in others.items().items()}
        found |= {f"DE {name}": genes for name, genes in experiment.de_genes.sets().items()}
        for name in OBJECTIVES:
            config = compose(*small, *data, *contrast, *rest, *words, f"objective={name}").objective
            recipe = fit(experiment, config)
            found |= {name: recipe.theta, f"{name} path": recipe.path, f"{name} null": null_recipes(experiment, config)[1]}
        return found, experiment

    return make


@pytest.fixture(scope="module")
def first(fitted, marked):
    return fitted(marked, "dataset.test=mine")


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found[name], value, check_exact=True, obj=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_there_is_something_to_leak(first, marked):
    found, experiment = first
    assert (marked.obs["mine"].to_numpy()[experiment.activations.test] == "test").all()
    assert len(experiment.activations.test) == 31
    assert min(len(experiment.split.source_held), len(experiment.split.target_held)) >= 3
    for name in OBJECTIVES:
        assert (found[name] != 0).sum() > 1
    assert (found["features"]["pr"] > 0).any()


def test_without_the_test_cells_every_fitted_byte_is_the_same(first, fitted, marked):
    fewer = marked[marked.obs["mine"] == "train"].copy()
    found, experiment = fitted(fewer, "dataset.test_share=0")
    assert len(experiment.split.source_held) == len(experiment.split.target_held) == 0
    same(found, first[0])


def test_with_other_cells_in_their_place_every_fitted_byte_is_the_same(first, fitted, marked):
    rng = np.random.default_rng(1)
    other, test = marked.copy(), np.flatnonzero(marked.obs["mine"] == "test")
    rows = np.arange(N)
    rows[test] = rng.permutation(N)[: len(test)]
    other.X = marked.X[rows]
    other.obs.loc[other.obs_names[test], "type"] = rng.choice(["A", "B", "new"], len(test))
    found, experiment = fitted(other, "dataset.test=mine")
    assert not np.array_equal(experiment.split.source_held, first[1].split.source_held)
    same(found, first[0])
