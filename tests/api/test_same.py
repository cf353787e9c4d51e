"""Calls and commands do the same: settings, recipes, scores; and calls read what commands left."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

import steerpipe as sp
from steerpipe.api.settings import MODELS, settings_of
from steerpipe.cli.hydra import compose
from steerpipe.config import Studies, as_dict
from steerpipe.errors import SteerError
from steerpipe.past import find_runs

from .conftest import SCORED

CHOICES = {path: f"model={path.split('/')[-1].lower().replace('.', '_').replace('-', '_')}" for path in MODELS}


@pytest.mark.parametrize("path", [*MODELS, "/x"])
def test_settings_are_those_that_the_commands_have(path):
    """The contrast and the dataset are every call's own; nothing else that a call reads may differ: it runs no study."""
    composed = compose(CHOICES[path]) if path in CHOICES else compose("model=local", f"model.path={path}")
    ours = settings_of(path, None, dataset=composed.dataset, contrast=composed.contrast)
    first, second = as_dict(ours), as_dict(composed)
    for config in (first, second):
        config["model"].pop("circuit_layers")
        for study in fields(Studies):
            config.pop(study.name)
    assert first == second


def test_a_recipe_is_that_of_the_command(recipe, commands):
    run = next(run for run in find_runs(commands) if run.manifest["stage"] == "fit")
    theirs = sp.load_recipe(run.path, outputs=commands)
    np.testing.assert_allclose(recipe.theta, theirs.theta, rtol=1e-5, atol=1e-8)
    assert np.count_nonzero(recipe.theta) > 1
    assert recipe.info["lam_max"] == pytest.approx(theirs.info["lam_max"])
    assert (recipe.settings, recipe.lam, recipe.layer, recipe.label) == (theirs.settings, theirs.lam, 1, "kind")
    shared = list(recipe.features.columns)
    pd.testing.assert_frame_equal(recipe.features, theirs.features[shared], rtol=1e-4)
    pd.testing.assert_frame_equal(recipe.path, theirs.path, rtol=1e-4, atol=1e-7)


def test_scores_are_those_of_the_command(adata, model, sae, store, commands):
    fitted = sp.fit(adata, model, sae, source=["T4"], target="T8", label="kind", refit=True, store=store)
    found = sp.evaluate(adata, model, sae, fitted, store=store, **SCORED)
    run = find_runs(commands)[-1]
    theirs = pd.read_csv(run.path / "headline.csv")
    pd.testing.assert_frame_equal(found, theirs, rtol=1e-3, atol=1e-4, check_dtype=False)
    assert found.attrs["conclusion"] == (run.path / "conclusion.txt").read_text().splitlines()
    assert {"latent", "latent, refit", "no-op"} <= set(found["recipe"])
    loaded = sp.load_recipe("last", outputs=commands)  # of `steer evaluate`
    np.testing.assert_allclose(loaded.refit, fitted.refit, rtol=1e-4, atol=1e-7)


def test_a_run_has_its_dictionary(sae, commands):
    last = sp.load_sae("last", outputs=commands)
    assert (last.layer, last.n_features, last.digest, last.annotation) == (1, sae.n_features, sae.digest, None)
    assert last.scores == pytest.approx(sae.scores)


def test_names_that_are_no_run_are_said(commands, tmp_path):
    with pytest.raises(SteerError, match=r"no runs in .*; start with: steer run"):
        sp.load_sae("last", outputs=tmp_path)
    with pytest.raises(SteerError, match="'nothing' names 0 runs"):
        sp.load_recipe("nothing", outputs=commands)
    with pytest.raises(SteerError, match="recipes of these objectives: latent; name one"):
        sp.load_recipe("last", objective="expression", outputs=commands)


def test_an_artefact_that_was_cleaned_is_said(commands, tmp_path):
    run = find_runs(commands)[0]
    manifest = (run.path / "manifest.json").read_text().replace(str(commands / ".store"), str(tmp_path / "gone"))
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "manifest.json").write_text(manifest)
    with pytest.raises(SteerError, match="is gone; build it again: steer rerun"):
        sp.load_recipe("last", outputs=tmp_path)
