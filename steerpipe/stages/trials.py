"""Every edit that an evaluation scores, the recipes and what they have to beat, and the scoring itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..config import EvaluateConfig
from ..evaluate.de import cumulative, de_signs, direction_row, expressed_genes, gap_fraction, moved_genes
from ..evaluate.distances import distances, score
from ..evaluate.entanglement import entanglement, gene_activity, participation_set
from ..evaluate.metrics import METRICS, Outcome
from ..progress import track
from ..steering.controls import mean_difference, random_direction, random_recipe, shuffle_sides
from ..steering.intervene import Edit, State, add_vector, recipe_edit, run_edit, splice
from .experiment import Experiment
from .fit import Recipe, shift, shuffled_theta

log = logging.getLogger(__name__)
CEILING = "split-half ceiling"
N_RANDOM_FEATURES = 100


@dataclass(frozen=True)
class Trial:
    """One edit to score; several of one name are seeds of a random control."""

    name: str
    kind: str
    edit: Edit | None
    splits: tuple[str, ...] = ("held",)


class Tables(NamedTuple):
    """What scoring gives: see stages.evaluate.Evaluation."""

    scores: pd.DataFrame
    cells: pd.DataFrame
    genes: pd.DataFrame
    directions: pd.DataFrame
    cumulative: pd.DataFrame
    steering_genes: pd.DataFrame
    entanglement: pd.DataFrame


def score_all(experiment: Experiment, recipes: list[Recipe], config: EvaluateConfig) -> Tables:
    """Run every trial and score it; the model runs once for each edit and split."""
    batch = experiment.context.config.model.batch_size
    rows = {"fit": experiment.fit_rows, "held": experiment.held_rows}
    base = {name: run_edit(experiment.cached, cells, None, batch_size=batch) for name, cells in rows.items()}
    scoring = _Scoring(experiment, config, base)
    todo = list(trials(experiment, recipes, config))
    for trial in track(todo, "evaluate", len(todo)):
        for split in trial.splits:
            no_op = trial.edit is None
            state = base[split] if no_op else run_edit(experiment.cached, rows[split], trial.edit, batch_size=batch)
            scoring.add(trial, split, state)
    if config.controls == "all":
        scoring.scores += _ceiling(experiment, base["held"])
    return scoring.tables(recipes)


def trials(experiment: Experiment, recipes: list[Recipe], config: EvaluateConfig) -> Iterator[Trial]:
    """Yield every edit to score, controls after the recipes."""
    sae, split, seed = experiment.sae, experiment.split, experiment.context.config.seed
    device = experiment.cached.device

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    for recipe in recipes:
        yield Trial(recipe.objective, "recipe", recipe_edit(sae, tensor(recipe.theta), recipe.mode), ("fit", "held"))
        if recipe.refit is not None:
            edit = recipe_edit(sae, tensor(recipe.refit), recipe.mode)
            yield Trial(f"{recipe.objective}, refit", "recipe", edit, ("fit", "held"))
    yield Trial("no-op", "control", None, ("fit", "held"))
    if config.controls == "none":
        return
    yield Trial("SAE spliced in", "control", splice(sae))
    source, target = experiment.layer[split.source_fit], experiment.layer[split.target_fit]
    yield Trial("mean difference (dense)", "control", add_vector(tensor(mean_difference(source, target))))
    rng = np.random.default_rng([seed, 3])
    for recipe in recipes:
        moved = shift(experiment, recipe.theta, recipe.mode, experiment.fit_rows)
        norm = float(np.linalg.norm(moved, axis=1).mean())
        scaled = mean_difference(source, target, norm)
        yield Trial(f"mean difference, norm of {recipe.objective}", "control", add_vector(tensor(scaled)))
        for _ in range(config.n_random):
            theta = random_recipe(recipe.theta, experiment.active | (recipe.theta != 0), rng)
            yield Trial(f"random features, as {recipe.objective}", "control", recipe_edit(sae, tensor(theta), recipe.mode))
        for _ in range(max(1, config.n_random // 4)):
            vector = random_direction(norm, source.shape[1], rng)
            yield Trial(f"random direction, norm of {recipe.objective}", "control", add_vector(tensor(vector)))
        sides = shuffle_sides(split.source_fit, split.target_fit, rng)
        objective = replace(experiment.context.config.objective, name=recipe.objective)
        theta = shuffled_theta(experiment, recipe, objective, sides)
        yield Trial(f"{recipe.objective}, labels shuffled", "control", recipe_edit(sae, tensor(theta), recipe.mode))


class _Scoring:
    """Collects the tables' rows, trial by trial."""

    def __init__(self, experiment: Experiment, config: EvaluateConfig, base: dict[str, State]) -> None:
        self.experiment, self.config, self.base = experiment, config, base
        split = experiment.split
        self.rows = {"fit": experiment.fit_rows, "held": experiment.held_rows}
        # held-out cells have a target of their own
        self.target = {"fit": _target(experiment, split.target_fit), "held": _target(experiment, split.target_held)}
        self.expressed = expressed_genes(experiment.counts[experiment.fit_rows])
        self.scores: list[dict[str, object]] = []
        self.directions: list[dict[str, object]] = []
        self.cells: list[pd.DataFrame] = []
        self.genes: list[pd.DataFrame] = []
        self.cumulative: list[pd.DataFrame] = []
        self.moved: list[pd.DataFrame] = []

    def add(self, trial: Trial, split: str, state: State) -> None:
        """Score one edited state of the cells of a split."""
        experiment, seed = self.experiment, self.experiment.context.config.seed
        label = {"recipe": trial.name, "kind": trial.kind, "split": split}
        genes = experiment.de_genes if experiment.has_head else None
        outcome = Outcome(self.base[split], state, self.target[split], genes, self.expressed, self.config.n_genes)
        cells = experiment.split.source[self.rows[split]]
        for space, metric in METRICS.items():
            pair = metric.function(outcome)
            if pair is None:
                continue
            there = np.isfinite(pair[0])
            before, after = pair[0][there], pair[1][there]
            result = score(before, after, n_bootstrap=self.config.n_bootstrap, seed=seed)
            self.scores.append({**label, "space": space, **result.row()})
            some = {**label, "space": space, "cell": cells[there], "before": before, "after": after}
            self.cells.append(pd.DataFrame(some))
        if genes is None:
            return
        before, after, target = (one.expression for one in (outcome.before, state, outcome.target))
        sets = {"expressed": np.flatnonzero(self.expressed), "de": np.concatenate([genes.up, genes.down]), **genes.sets()}
        for name, among in sets.items():
            columns = before[:, among], after[:, among], target[:, among]
            found = direction_row(*columns, n_bootstrap=self.config.n_bootstrap, seed=seed)
            self.directions.append({**label, "genes": name, **found})
        if split == "held":
            gaps = gap_fraction(before, after, target, experiment.genes)
            self.genes.append(gaps.assign(recipe=trial.name, kind=trial.kind))
            if trial.kind == "recipe":
                ranked = cumulative(gaps, np.flatnonzero(self.expressed))
                self.cumulative.append(ranked.assign(recipe=trial.name))
                self.moved.append(_moved(outcome, gaps).assign(recipe=trial.name))

    def tables(self, recipes: list[Recipe]) -> Tables:
        """Return the tables, controls with several seeds as means over them."""
        scores = _over_seeds(pd.DataFrame(self.scores), ["recipe", "kind", "split", "space"], ["closer", "change"])
        cells = pd.concat(self.cells, ignore_index=True)
        if not self.genes:  # no output head: the columns alone
            none = gap_fraction(np.zeros((1, 0)), np.zeros((1, 0)), np.zeros((1, 0)), []).assign(recipe="", kind="")
            return Tables(scores, cells, none, *(pd.DataFrame({"recipe": []}) for _ in range(4)))
        genes = pd.concat(self.genes, ignore_index=True).groupby(["recipe", "kind", "gene"], sort=False).mean().reset_index()
        directions = _over_seeds(pd.DataFrame(self.directions), ["recipe", "kind", "split", "genes"], ["gap_fraction"])
        ranked, moved = (pd.concat(rows, ignore_index=True) for rows in (self.cumulative, self.moved))
        tangled = _entanglement(self.experiment, recipes, self.expressed)
        return Tables(scores, cells, genes, directions, ranked, moved, tangled)


def _target(experiment: Experiment, cells: np.ndarray) -> State:
    expression = experiment.expression[cells] if experiment.has_head else np.zeros((len(cells), 0), np.float32)
    return State(experiment.layer[cells], experiment.final[cells], expression)


def _over_seeds(rows: pd.DataFrame, keys: list[str], intervals: list[str]) -> pd.DataFrame:
    """Average the seeds of a control; their intervals become the 2.5 and 97.5 percentiles over seeds."""
    groups = rows.groupby(keys, sort=False)
    seeds, means = groups.size().to_numpy(), groups.mean().reset_index()
    for name in intervals:
        for bound, q in (("lo", 0.025), ("hi", 0.975)):
            over_seeds = groups[name].quantile(q).to_numpy()
            means[f"{name}_{bound}"] = np.where(seeds > 1, over_seeds, means[f"{name}_{bound}"])
    return means.assign(seeds=seeds)


def _moved(outcome: Outcome, gaps: pd.DataFrame) -> pd.DataFrame:
    """The genes that a recipe moved in all of the cells, for reading; the distances are on genes chosen on half of them."""
    if np.array_equal(outcome.before.expression, outcome.after.expression):
        return gaps.head(0).assign(moved="")
    found = moved_genes(outcome.before.expression, outcome.after.expression, outcome.expressed, outcome.n_genes)
    return pd.concat([gaps.iloc[genes].assign(moved=name) for genes, name in zip(found, ("up", "down"), strict=True)])


def _entanglement(experiment: Experiment, recipes: list[Recipe], expressed: np.ndarray) -> pd.DataFrame:
    """Entanglement of each recipe's features, and of active features drawn at random."""
    split, config = experiment.split, experiment.context.config
    rng = np.random.default_rng([config.seed, 5])
    active = np.flatnonzero(experiment.active)
    groups = {recipe.objective: np.flatnonzero(recipe.theta) for recipe in recipes}
    groups["random active features"] = np.sort(rng.permutation(active)[:N_RANDOM_FEATURES])
    features = np.unique(np.concatenate(list(groups.values())))
    signs = de_signs(experiment.expression[split.source_fit], experiment.expression[split.target_fit], expressed)
    rows = experiment.fit_rows
    activity = gene_activity(experiment.cached, experiment.sae, features, rows, batch_size=config.model.batch_size)
    sets = {int(f): participation_set(row) for f, row in zip(features, activity, strict=True)}
    frames = [entanglement({int(f): sets[int(f)] for f in some}, signs).assign(recipe=name) for name, some in groups.items()]
    return pd.concat(frames, ignore_index=True)


def _ceiling(experiment: Experiment, before: State) -> list[dict[str, object]]:
    """How close one half of the held-out target cells is to the other, against the source cells' distance before."""
    order = np.random.default_rng([experiment.context.config.seed, 4]).permutation(experiment.split.target_held)
    half, other = order[: len(order) // 2], order[len(order) // 2 :]
    rows: list[dict[str, object]] = []
    halves = [{"layer": experiment.layer[some], "final": experiment.final[some]} for some in (half, other)]
    source = {"layer": before.layer, "final": before.final}
    for name, genes in experiment.de_genes.sets().items() if experiment.has_head else ():
        for values, some in zip(halves, (half, other), strict=True):
            values[f"de_{name}"] = experiment.expression[some][:, genes]
        source[f"de_{name}"] = before.expression[:, genes]
    for space, start in source.items():
        mu = halves[1][space].mean(0)
        change = float(np.median(distances(halves[0][space], mu)) / np.median(distances(start, mu)) - 1)
        label = {"recipe": CEILING, "kind": "control", "split": "held", "space": space, "n": len(half)}
        rows.append(label | {"closer": np.nan, "change": change})
    return rows
