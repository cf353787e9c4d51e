"""Every edit that an evaluation scores, the recipes and what they have to beat, and the scoring itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..progress import track
from ..steering.controls import mean_difference, random_direction, random_recipe
from ..steering.intervene import Edit, State, add_vector, splice
from .de import cumulative, direction_row, gap_fraction, moved_genes
from .distances import distances
from .inference import over_seeds
from .scorer import Scorer

CEILING = "split-half floor"
KEYS = ["recipe", "kind", "split", "space", "score"]


class Candidate(NamedTuple):
    """A recipe (F,) to score: its name and mode, the refit on its support, and a fit of half of the true difference."""

    name: str
    theta: np.ndarray
    mode: str
    refit: np.ndarray | None = None
    half_dose: np.ndarray | None = None


@dataclass(frozen=True)
class Trial:
    """One edit to score, a recipe (theta, in a mode) or any other; several of one name are seeds of a random control."""

    name: str
    kind: str
    edit: Edit | None = None
    splits: tuple[str, ...] = ("held",)
    seeds: int = 1
    theta: np.ndarray | None = None
    mode: str = "multiply"


class Tables(NamedTuple):
    """What scoring gives, see pipeline.evaluation.Evaluation; `effects`: each recipe's mean shift and change of expression."""

    scores: pd.DataFrame
    cells: pd.DataFrame
    genes: pd.DataFrame
    agreement: pd.DataFrame
    directions: pd.DataFrame
    cumulative: pd.DataFrame
    steering_genes: pd.DataFrame
    effects: pd.DataFrame


def score_all(
    scorers: Mapping[str, Scorer], candidates: Sequence[Candidate], active: np.ndarray, genes: Sequence[str]
) -> Tables:
    """Run every trial and score it; the model runs once for each edit and split.

    Parameters
    ----------
    scorers : of the cells of the fit (fit) and of held-out ones (held)
    active : bool (F,), features that fire in a source cell of the fit
    genes : names of the valid genes; none for a model without an output head
    """
    scoring = _Scoring(scorers, genes)
    todo = list(trials(scorers["fit"], candidates, active))
    for trial in track(todo, "evaluate", len(todo)):
        for split in trial.splits:
            scoring.add(trial, split)
    if scorers["held"].config.controls == "all":
        scoring.scores += _ceiling(scorers["held"])
    return scoring.tables()


def trials(fit: Scorer, candidates: Sequence[Candidate], active: np.ndarray) -> Iterator[Trial]:
    """Yield every edit to score, controls after the recipes; controls know the cells of the fit alone."""
    config = fit.config

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=fit.cached.device)

    for one in candidates:
        both: dict[str, Any] = {"splits": ("fit", "held"), "mode": one.mode}
        yield Trial(one.name, "recipe", theta=one.theta, **both)
        if one.refit is not None:
            yield Trial(f"{one.name}, refit", "refit", theta=one.refit, **both)
    yield Trial("no-op", "control", splits=("fit", "held"))
    if config.controls == "none":
        return
    yield Trial("SAE spliced in", "control", splice(fit.sae))
    source, target = (fit.states.layer[fit.cells[rows]] for rows in fit.sides)
    dense = mean_difference(source, target)
    yield Trial("mean difference (dense)", "control", add_vector(tensor(dense)))
    rng = np.random.default_rng([fit.seed, 3])
    for name, theta, mode, _, half_dose in candidates:
        moved = fit.shift(theta, mode, fit.sides[0])
        norm = float(np.linalg.norm(moved, axis=1).mean())
        gap = float(moved.mean(0) @ dense / max(float(dense @ dense), 1e-300))
        yield Trial(f"mean difference, norm of {name}", "control", add_vector(tensor(mean_difference(source, target, norm))))
        yield Trial(f"mean difference, gap of {name}", "control", add_vector(tensor(gap * dense)))
        for _ in range(config.n_random):
            random = random_recipe(theta, active | (theta != 0), rng)
            yield Trial(f"random features, as {name}", "control", theta=random, mode=mode, seeds=config.n_random)
        n_directions = max(1, config.n_random // 4)
        for _ in range(n_directions):
            edit = add_vector(tensor(random_direction(norm, source.shape[1], rng)))
            yield Trial(f"random direction, norm of {name}", "control", edit, seeds=n_directions)
        if half_dose is not None:
            yield Trial(f"{name}, half dose", "control", theta=half_dose, mode=mode)


class _Scoring:
    """Collects the tables' rows, trial by trial."""

    def __init__(self, scorers: Mapping[str, Scorer], names: Sequence[str]) -> None:
        self.scorers, self.names = scorers, names
        self.scores: list[dict[str, object]] = []
        self.agreement: list[dict[str, object]] = []
        self.directions: list[dict[str, object]] = []
        self.cells: list[pd.DataFrame] = []
        self.genes: list[pd.DataFrame] = []
        self.cumulative: list[pd.DataFrame] = []
        self.moved: list[pd.DataFrame] = []
        self.effects: list[pd.DataFrame] = []

    def add(self, trial: Trial, split: str) -> None:
        """Score one edit of the cells of a split."""
        how = self.scorers[split]
        if trial.theta is not None:
            state = how.recipe(trial.theta, trial.mode)
        else:
            state = how.base if trial.edit is None else how.state(trial.edit)
        label = {"recipe": trial.name, "kind": trial.kind, "split": split}
        alone = trial.seeds == 1
        self.scores += [{**label, **row} for row in how.rows_of(state, intervals=alone)]
        self.cells += [frame.assign(**label) for frame in how.cell_frames(state)]
        if trial.kind != "control":
            self.agreement += [{**label, **row} for row in how.agreement(state)]
        if trial.kind == "recipe" and split == "held":
            self.effects.append(_effects(how.base, state).assign(recipe=trial.name))
        genes = how.genes
        if genes is None:
            return
        before, after, target = how.base.expression, state.expression, how.goal.expression
        sets = {"expressed": np.flatnonzero(how.expressed), "de": np.concatenate([genes.up, genes.down]), **genes.sets()}
        options: dict[str, Any] = {"n_bootstrap": how.config.n_bootstrap, "seed": how.seed}
        for name, among in sets.items():
            columns = before[:, among], after[:, among], target[:, among]
            self.directions.append({**label, "genes": name, **direction_row(*columns, **options)})
        if split == "held":
            gaps = gap_fraction(before, after, target, list(self.names))
            self.genes.append(gaps.assign(recipe=trial.name, kind=trial.kind))
            if trial.kind == "recipe":
                ranked = cumulative(gaps, np.flatnonzero(how.expressed))
                self.cumulative.append(ranked.assign(recipe=trial.name))
                self.moved.append(_moved(how, state, gaps).assign(recipe=trial.name))

    def tables(self) -> Tables:
        """Return the tables, controls with several seeds as means over them."""
        rows = pd.DataFrame(self.scores)
        # one thing is resampled throughout: kept aside from the means over seeds
        scores = over_seeds(rows.drop(columns="resampled"), KEYS).assign(resampled=rows["resampled"].iloc[0], dictionaries=1)
        cells, agreement = pd.concat(self.cells, ignore_index=True), pd.DataFrame(self.agreement)
        effects = pd.concat(self.effects, ignore_index=True)
        if not self.genes:  # no expression head: the columns alone
            none = gap_fraction(np.zeros((1, 0)), np.zeros((1, 0)), np.zeros((1, 0)), []).assign(recipe="", kind="")
            empty = pd.DataFrame({"recipe": []})
            return Tables(scores, cells, none, agreement, empty, empty, empty, effects)
        genes = pd.concat(self.genes, ignore_index=True).groupby(["recipe", "kind", "gene"], sort=False).mean().reset_index()
        directions = pd.DataFrame(self.directions).groupby(["recipe", "kind", "split", "genes"], sort=False)
        ranked, moved = (pd.concat(rows, ignore_index=True) for rows in (self.cumulative, self.moved))
        return Tables(scores, cells, genes, agreement, directions.mean().reset_index(), ranked, moved, effects)


def _effects(before: State, after: State) -> pd.DataFrame:
    """The mean shift at the layer and the mean change of predicted expression, one row a dimension or gene."""
    found = {"layer": after.layer - before.layer, "expression": after.expression - before.expression}
    frames = [pd.DataFrame({"space": name, "at": range(v.shape[1]), "change": v.mean(0)}) for name, v in found.items()]
    return pd.concat(frames, ignore_index=True)


def _moved(how: Scorer, after: State, gaps: pd.DataFrame) -> pd.DataFrame:
    """The genes that a recipe moved in all of the cells, for reading; the distances are on genes chosen on half of them."""
    before, steered = how.base.expression, after.expression
    if np.array_equal(before, steered):
        return gaps.head(0).assign(moved="")
    found = moved_genes(before, steered, how.expressed, how.config.n_genes)
    return pd.concat([gaps.iloc[genes].assign(moved=name) for genes, name in zip(found, ("up", "down"), strict=True)])


def _ceiling(how: Scorer) -> list[dict[str, object]]:
    """One half of the held-out target cells against the other: the floors, and the distances' change from the source cells'."""
    label = {"recipe": CEILING, "kind": "control", "split": "held", "n": len(how.target) // 2}
    label["resampled"] = how.populations["layer"].resampled
    rows = [
        {**label, "space": space, "score": name, "value": value, "floor": value} for (space, name), value in how.floors.items()
    ]
    order = np.random.default_rng([how.seed, 4]).permutation(len(how.target))
    half, other = order[: len(order) // 2], order[len(order) // 2 :]
    spaces = {"layer": (how.base.layer, how.goal.layer), "final": (how.base.final, how.goal.final)}
    for name, genes in how.genes.sets().items() if how.genes is not None else ():
        spaces[f"de_{name}"] = (how.base.expression[:, genes], how.goal.expression[:, genes])
    for space, (start, goal) in spaces.items():
        mu = goal[other].mean(0)
        change = float(np.median(distances(goal[half], mu)) / np.median(distances(start, mu)) - 1)
        rows.append({**label, "space": space, "score": "change", "value": change, "floor": change})
    return rows
