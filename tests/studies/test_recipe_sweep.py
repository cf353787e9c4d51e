"""A sweep of `steer recipe`: one table and one figure of all its programmes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.commands import study as command
from steerpipe.pipeline.fit import fit
from steerpipe.pipeline.problems import model_objective
from steerpipe.pipeline.program import phenotype
from steerpipe.pipeline.program_scores import edits, held_scorer, rise, steepest_direction
from steerpipe.store import Store
from steerpipe.studies.recipe.sweep import sweep

from ..made import Made, a_run

SMALL = ["debug=small", "model=local", "layer=1", "dataset.max_cells=120", "sae.tokens=20000", "annotate.min_size=3"]
PROGRAMMES = (["recipe.up=[CD8A,CD8B,GZMB,NKG7]"], ["recipe.up=[IL7R,CCR7,CD3D,CD4]", "recipe.down=[LYZ,GZMB]"])


@pytest.fixture(scope="module")
def make(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programmes")

    def make(number, *words):
        config = compose(*SMALL, f"model.path={tiny_folder}", "lambda.value=0.2", *words)
        made = Made(config, Store(folder / "store"), run=a_run(folder / "12-00-00_sweep" / str(number)))
        made.run.manifest["config"] = {"recipe": vars(config.recipe), "contrast": vars(config.contrast)}
        return made

    return make


def test_every_job_writes_the_table_of_all(make):
    for number, words in enumerate(PROGRAMMES):
        context = make(number, *words)
        with context.run:
            command.main("recipe", context, context.run)
    folder = context.run.path.parent
    table = pd.read_csv(folder / "programmes.csv")
    assert table["job"].tolist() == [0, 1]
    assert table["programme"].tolist() == ["CD8A CD8B GZMB NKG7", "IL7R CCR7 CD3D CD4 -LYZ -GZMB"]
    for row in table.itertuples():
        scores = pd.read_csv(folder / str(row.job) / "scores.csv").set_index(["what", "half"])
        assert row.sds == pytest.approx(scores.loc[("recipe", "held"), "sds"])
        assert row.p_program <= row.q_program
        assert row.null_lo <= row.null_hi
    assert (folder / "plots" / "programmes.png").stat().st_size > 1000


def test_nothing_is_said_of_a_sweep_in_which_there_is_nothing(tmp_path):
    """Twenty programmes whose p are those of chance: one is below .05, and none after correction."""
    jobs = []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        pd.DataFrame({"gene": ["LYZ"], "kind": ["knock-out"], "named": [False]}).to_csv(folder / "genes.csv")
        draws = pd.DataFrame({"what": "random programme, its own rise", "half": "held", "sds": np.linspace(-1, 2, 20)})
        draws.to_csv(folder / "draws.csv")
        p = (number + 1) / 21
        numbers = {"features": 3, "rise": 0.1, "sds": 1.0, "p_program": p, "p_features": p, "beyond": float(p <= 0.05)}
        config = {"recipe": {"set": f"go_bp:set {number}", "like": None, "up": [], "down": []}, "contrast": {"source": "cd4"}}
        jobs.append((folder, config, {f"recipe/{name}": value for name, value in numbers.items()}))
    jobs.append((tmp_path, {**config, "recipe": {**config["recipe"], "set": "go_bp:no recipe"}}, {}))
    found = sweep(jobs)
    assert len(found.tables["programmes"]) == 21
    assert found.texts["conclusion"][0].startswith(
        "1 of 21 programmes rise beyond their nulls on held-out genes and cells (chance 1.1): set 0 from cd4; 0 after"
    )
    assert "programmes" in found.figures
    assert "programmes" not in sweep(jobs[-1:]).figures


def test_the_steepest_direction_is_steeper_than_any_other(make):
    """The rise along it per unit of length, against finite differences of the score along random unit vectors."""
    pipeline = make(9, *PROGRAMMES[0])
    experiment = pipeline.experiment(scored=True)
    objective = pipeline.config.objective.named("program")
    asked = phenotype(experiment)
    v = steepest_direction(experiment, objective)
    assert np.linalg.norm(v) == pytest.approx(1)

    W_dec = experiment.sae.W_dec.detach().double().numpy()
    score = model_objective(experiment, replace(objective, mode="add"), [experiment.sides])

    def risen(vector, step=1e-3):
        theta = np.linalg.lstsq(W_dec.T, step * vector, rcond=None)[0]
        return (score.value(np.zeros(len(theta))) - score.value(theta)) / step

    rng = np.random.default_rng(0)
    others = rng.normal(size=(20, len(v)))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert risen(v) > 2 * max(risen(one) for one in others)
    how = held_scorer(experiment)
    recipe = fit(experiment, objective)
    found = {what: state for what, _, _, state in edits(asked, recipe, np.zeros((0, len(recipe.theta))), how)}
    weights = asked.weights("seen")
    assert (
        rise(how.base.expression, found["steepest direction"].expression, weights).mean()
        > rise(how.base.expression, found["random direction"].expression, weights).mean()
    )
