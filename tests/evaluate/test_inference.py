"""The permutation null as scores meet it: calibrated where there is nothing, and what tables and words make of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from steerpipe.evaluate import population
from steerpipe.evaluate.agreement import agreement_of_dictionaries
from steerpipe.evaluate.inference import COLUMNS, add_null, answer, conclusions, over_dictionaries, over_seeds
from steerpipe.evaluate.population import Population, fit_probe, permutation_p
from steerpipe.evaluate.tables import headline, summary
from steerpipe.steering.lasso import LatentProblem

DIMENSIONS, FEATURES, FIT, HELD = 12, 30, 16, 12
RATIO = 0.2


class World:
    """Cells whose codes and embeddings go together, as a layer's do; the sides differ by `gap`."""

    def __init__(self, rng: np.random.Generator, gap: float) -> None:
        self.W = rng.standard_normal((FEATURES, DIMENSIONS)) / np.sqrt(DIMENSIONS)
        way = rng.standard_normal(DIMENSIONS)
        n = 2 * FIT + 2 * HELD
        self.z = rng.exponential(1, (n, FEATURES)) * (rng.random((n, FEATURES)) < 0.5)
        self.e = self.z @ self.W + 0.5 * rng.standard_normal((n, DIMENSIONS))
        self.source, self.target, self.held, self.goal = np.split(np.arange(n), [FIT, 2 * FIT, 2 * FIT + HELD])
        self.e[np.concatenate([self.target, self.goal])] += gap * way / np.linalg.norm(way)

    def fit(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        problem = LatentProblem(self.z[source], self.W, self.e[source], self.e[target].mean(0))
        return problem.solve(RATIO * problem.lam_max).theta

    def steered(self, theta: np.ndarray) -> np.ndarray:
        return self.e[self.held] + (self.z[self.held] * theta) @ self.W

    def p_values(self, rng: np.random.Generator, n: int, scores: tuple[str, ...]) -> dict[str, float]:
        probe = fit_probe(self.e[self.source], self.e[self.target]) if "probe" in scores else NO_PROBE
        population = Population(self.e[self.held], self.e[self.goal], probe)
        both = np.concatenate([self.source, self.target])
        deals = [np.split(rng.permutation(both), 2) for _ in range(n)]
        null = [population.values(self.steered(self.fit(*deal))) for deal in deals]
        mine = population.values(self.steered(self.fit(self.source, self.target)))
        way = {"edistance": "lower", "gap": "higher", "probe": "higher"}
        return {s: permutation_p(mine[s], np.array([one[s] for one in null]), way[s]).p for s in scores}


NO_PROBE = fit_probe(np.eye(DIMENSIONS), -np.eye(DIMENSIONS))


@pytest.fixture(autouse=True)
def _no_classifier(monkeypatch):
    """The C2ST is not asked for here, and would take nearly all of the time."""
    monkeypatch.setattr(population, "c2st_scores", lambda steered, target, seed: np.zeros(len(steered) + len(target)))


@pytest.mark.slow
def test_where_there_is_nothing_one_in_twenty_is_below_five_percent():
    """200 contrasts without a difference: the share of p <= .05 lies between 2 and 8 % in both of the scores that decide."""
    rng = np.random.default_rng(1)
    scores = ("edistance", "gap")
    found = pd.DataFrame([World(rng, 0.0).p_values(rng, 19, scores) for _ in range(200)])
    for name in scores:
        assert 0.02 <= (found[name] <= 0.05).mean() <= 0.08, name


def test_a_planted_difference_is_found():
    rng = np.random.default_rng(0)
    found = pd.DataFrame([World(rng, 3.0).p_values(rng, 19, ("edistance", "gap", "probe")) for _ in range(5)])
    assert (found <= 0.1).all(axis=None)  # a deal may be the true one, but for a few cells
    assert (found <= 0.05).to_numpy().mean() >= 0.8


def scores_of(values, *, recipe="latent", space="layer", kind="recipe"):
    rows = [{"score": score, "value": value} for score, value in values.items()]
    same = {"recipe": recipe, "kind": kind, "split": "held", "space": space, "dictionaries": 1, "seeds": 1, "n": 30}
    return pd.DataFrame(rows).assign(**same, lo=np.nan, hi=np.nan, floor=0.0, resampled="cells")


def null_of(score, values, *, recipe="latent", space="layer"):
    frame = pd.DataFrame({"deal": range(len(values)), "value": values})
    return frame.assign(score=score, recipe=recipe, space=space, split="held")


def test_the_null_is_added_row_by_row():
    null = pd.concat([null_of("edistance", np.linspace(-0.1, 0.1, 99)), null_of("gap", np.linspace(-0.1, 0.1, 99))])
    out = add_null(scores_of({"edistance": -0.6, "gap": 0.0, "spread": 0.9}), null).set_index("score")
    assert list(out.reset_index().columns.difference(COLUMNS)) == []
    assert out.loc["edistance", "p"] == pytest.approx(0.01)
    assert out.loc["gap", "p"] == pytest.approx(0.51)
    assert out.loc["edistance", "null_mean"] == pytest.approx(0)
    assert np.isnan(out.loc["spread", "p"])
    assert out.loc["spread", "n_null"] == 0


def test_words_say_nothing_where_there_is_nothing():
    null = pd.concat([null_of("edistance", np.linspace(-0.2, 0.2, 99)), null_of("gap", np.linspace(-0.3, 0.3, 99))])
    real = conclusions(add_null(scores_of({"edistance": -0.6, "gap": 0.5}), null))
    assert len(real) == 1
    assert "moves the population towards the target" in real[0]
    assert "-60%" in real[0]
    one_of_two = conclusions(add_null(scores_of({"edistance": -0.6, "gap": 0.1}), null))
    assert "nothing beyond its null" in one_of_two[0]
    assert one_of_two[1].startswith("Nothing: no recipe here does more")
    none = conclusions(add_null(scores_of({"edistance": -0.6, "gap": 0.5}), null.head(0)))
    assert none == ["latent: no null was drawn, so nothing is claimed (evaluate.n_permutations)."]


def test_the_answer_is_made_of_the_numbers():
    null = pd.concat([null_of("edistance", np.linspace(-0.2, 0.2, 99)), null_of("gap", np.linspace(-0.4, 0.4, 99))])
    scores = scores_of({"edistance": -0.61, "gap": 0.52})
    far, against, over = answer(add_null(scores, null))
    assert far.startswith("Held-out cells move towards the target: latent closes 52% of the gap in the steered layer")
    assert "E-distance 61% shorter" in far
    assert "-38% to 38% for latent (p = 0.01, 99 deals)" in against
    assert over.startswith("All of it is on one dictionary")
    several = add_null(scores, null).assign(dictionaries=4, lo=0.4, hi=0.7)
    assert "4 dictionaries" in answer(several)[2]
    assert "40% to 70% for latent" in answer(several)[2]
    away = answer(add_null(scores_of({"edistance": -0.61, "gap": 0.1}), null))[0]
    assert away.startswith("Nothing: ")
    assert "latent closes 10%" in away
    worse = null.assign(value=null["value"] + (null["score"] == "edistance"))
    longer = add_null(scores_of({"edistance": 0.3, "gap": 0.52}), worse)
    assert answer(longer)[0].startswith("They go along the way, but get no nearer: latent closes 52% of the gap")
    assert "30% longer" in answer(longer)[0]
    none = answer(add_null(scores, null.head(0)))
    assert none[0] == "Nothing is claimed: no null was drawn beside the fits (evaluate.n_permutations)."
    weak = scores_of({"edistance": 0.1, "gap": 0.1}, recipe="latent (cell)")
    two = pd.concat([add_null(scores, null), add_null(weak, null.assign(recipe="latent (cell)"))])
    assert "; not beyond its null in both scores: latent (cell) closes 10% of the gap" in answer(two)[0]
    assert answer(scores[scores["split"] == "fit"]) == []


def test_many_recipes_are_counted_and_told_by_their_range():
    null = pd.concat([null_of("edistance", np.linspace(-0.2, 0.2, 99)), null_of("gap", np.linspace(-0.4, 0.4, 99))])
    names = [f"latent, weight {i}" for i in range(5)]
    values = [(-0.61, 0.52), (-0.7, 0.6), (-0.5, 0.7), (-0.9, 0.65), (-0.3, 0.1)]
    every = [
        add_null(scores_of({"edistance": far, "gap": gap}, recipe=name), null.assign(recipe=name))
        for name, (far, gap) in zip(names, values, strict=True)
    ]
    far, against, over = answer(pd.concat(every))
    assert "towards the target: 4 recipes close 52% to 70% of the gap in the steered layer (E-distance -90% to -50%)" in far
    assert "; not beyond its null in both scores: latent, weight 4 closes 10% of the gap" in far
    assert "95 in 100 close -38% to 38% (p = 0.01 to" in against
    assert "99 deals each); 5 recipes are tested, of which chance alone passes at most 0.2" in against
    assert over.startswith("All of it is on one dictionary")
    several = pd.concat(every).assign(dictionaries=4, lo=0.4, hi=0.7)
    assert answer(several)[2].endswith("one by one they close 40% to 70%.")


def test_an_objective_is_judged_in_its_own_space():
    rows = pd.concat(
        [
            scores_of({"edistance": -0.6, "gap": 0.5}, recipe="expression (cell)", space="layer"),
            scores_of({"edistance": 0.1, "gap": 0.5}, recipe="expression (cell)", space="expression"),
        ]
    )
    null = pd.concat(
        [
            null_of(score, np.linspace(-0.2, 0.2, 99), recipe="expression (cell)", space=space)
            for score in ("edistance", "gap")
            for space in ("layer", "expression")
        ]
    )
    lines = conclusions(add_null(rows, null))
    assert "nothing beyond its null" in lines[0]
    assert "predicted expression" in lines[0]


def test_over_dictionaries_the_null_is_that_of_the_mean():
    """Deals are shared: what one dictionary's deal gains another's may lose, and the mean's null is narrower."""
    ups, downs = np.linspace(-1, 1, 99), np.linspace(1, -1, 99)
    scores = [scores_of({"gap": value}) for value in (0.4, 0.6)]
    out = over_dictionaries(scores, [null_of("gap", ups), null_of("gap", downs)]).iloc[0]
    assert (out["value"], out["lo"], out["hi"], out["dictionaries"]) == (0.5, 0.4, 0.6, 2)
    assert out["null_hi"] == pytest.approx(0)
    assert out["p"] == pytest.approx(0.01)


def test_random_controls_are_means_over_seeds():
    rows = pd.concat([scores_of({"gap": value}, recipe="random", kind="control") for value in np.linspace(0, 1, 41)])
    out = over_seeds(rows.drop(columns="resampled"), ["recipe", "kind", "split", "space", "score"]).iloc[0]
    assert (out["value"], out["seeds"]) == (pytest.approx(0.5), 41)
    assert (out["lo"], out["hi"]) == (pytest.approx(0.025), pytest.approx(0.975))


def test_tables_mark_what_the_null_does_too():
    null = pd.concat([null_of("edistance", np.linspace(-0.2, 0.2, 99)), null_of("gap", np.linspace(-0.3, 0.3, 99))])
    scores = add_null(scores_of({"edistance": -0.6, "gap": 0.1}), null)
    rows = summary(scores)
    assert rows["E-distance"].tolist() == ["-60%", "[-19%, +19%]"]
    assert rows["gap"].tolist()[0] == "~0.10"
    wide = headline(scores).iloc[0]
    assert (wide["edistance"], wide["edistance_p"]) == (-0.6, pytest.approx(0.01))


def test_dictionaries_agree_on_what_a_recipe_does_though_not_on_its_features():
    """Two dictionaries: one feature in common, of which one is recruited by both; the shifts are the same."""
    W, other = np.eye(4)[:3], np.eye(4)[[0, 3]]
    effect = pd.DataFrame({"recipe": "latent", "space": "layer", "at": range(4), "change": [1.0, 2.0, 0.0, 0.0]})
    effects = pd.concat([effect, effect.assign(space="expression", change=[1.0, 0.0, 0.0, 0.0])])
    turned = pd.concat([effect, effect.assign(space="expression", change=[0.0, 1.0, 0.0, 0.0])])
    recipes = [{"latent": (np.array([1.0, 0.5, 0.0]), W)}, {"latent": (np.array([2.0, 0.0]), other)}]
    row = agreement_of_dictionaries([effects, turned], recipes).iloc[0]
    assert row["shift_cosine"] == pytest.approx(1)
    assert row["expression_cosine"] == pytest.approx(0)
    assert row["features"] == 1.5
    assert row["recur"] == pytest.approx((0.5 + 1) / 2)
