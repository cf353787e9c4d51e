"""`steer transfer`: a recipe fitted on some cell types, scored on the held-out cells of others.

Every fit aims each type's source cells at that type's own target cells, so that the recipe is of the perturbation and not
of the types. Scores are of held-out cells towards their own type's held-out target cells.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import ObjectiveConfig, as_dict
from ..errors import SteerError, unknown
from ..evaluate.de import DEGenes, expressed_genes, gap_fraction, pick_de_genes
from ..evaluate.recruitment import counts
from ..plot import transfer as figures
from ..progress import track
from ..steering.controls import mean_difference, random_recipe
from ..steering.intervene import State, add_vector
from ..steering.lasso import LatentProblem
from ..steering.objectives import ExpressionObjective, gene_weights
from ..steering.proximal import solve
from .checkpoint import require_head
from .common import Context
from .experiment import Experiment, prepare
from .expression import NODE_RATIO, cells_key, read_by
from .fit import weight_of
from .plot import caption
from .scoring import Scorer, require_multiply

log = logging.getLogger(__name__)
VERSION = 1
MIN_HELD = 3
REST = "all others"
OBJECTIVES = ("latent", "expression")


@dataclass(frozen=True)
class Group:
    """One type's cells: source cells as positions among the source cells, target cells as positions in the dataset."""

    name: str
    fit: np.ndarray
    held: np.ndarray
    target_fit: np.ndarray
    target_held: np.ndarray


def main(context: Context) -> None:
    """Fit on each type and on all others, score on each type, print and draw."""
    config, run = context.config, context.run
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    require_multiply(config, "transfer")
    experiment = prepare(context)
    groups = find_groups(experiment)
    for group in groups:
        log.info("%s: %d cells to fit, %d held out; target %d and %d",
                 group.name, len(group.fit), len(group.held), len(group.target_fit), len(group.target_held))  # fmt: skip
    scores, genes, sizes = score_all(experiment, groups)
    markers = genes[genes["gene"].isin(config.evaluate.markers)]
    for name, table in {"scores": scores, "genes": genes, "markers": markers, "recipes": sizes}.items():
        run.table(name, table)
    log.info("recipes:\n%s", sizes.to_string(index=False))
    log.info("held-out cells, share closer (median change of distance):\n%s", summary(scores).to_string(index=False))
    log.info("markers, share of the gap closed:\n%s", marker_table(markers).to_string(index=False))
    for row in scores[scores["relation"].isin(["own", "transferred"])].itertuples():
        run.metrics({f"{row.score_on}/{row.objective}/{row.relation}/{row.space}_change": row.change})
    text = caption(config, str(experiment.activations.policy))
    run.figure("transfer", figures.matrix(scores, text), scores[scores["kind"] == "recipe"])
    if len(markers):
        run.figure("transfer_markers", figures.markers(markers, text), markers)


def find_groups(experiment: Experiment) -> list[Group]:
    """Return the configured types, or those with most cells.

    Raises
    ------
    SteerError
        No such column or type, or fewer than two types with enough cells on both sides.
    """
    config = experiment.context.config
    settings, split, obs = config.transfer, experiment.split, experiment.activations.obs
    by = settings.by or config.dataset.label
    if by is None or by not in obs:
        raise unknown("column transfer.by", by, obs.columns)
    labels = obs[by].astype(str).to_numpy()
    sides = [pd.Series(labels[cells]).value_counts() for cells in (split.source, split.target)]
    smaller = pd.concat(sides, axis=1).min(axis=1, skipna=False).dropna().sort_values(ascending=False, kind="stable")
    for name in settings.types:
        if name not in smaller.index:
            raise unknown("type in transfer.types", name, smaller.index)
    enough = smaller[smaller >= settings.min_cells].index.tolist()
    names = settings.types or enough[: settings.n_types]
    groups = []
    for name in names:
        parts = [labels[split.source_fit], labels[split.source_held], labels[split.target_fit], labels[split.target_held]]
        fit, held, target_fit, target_held = (np.flatnonzero(part == name) for part in parts)
        held = held + len(split.source_fit)
        groups.append(Group(name, fit, held, split.target_fit[target_fit], split.target_held[target_held]))
    few = [g for g in groups if min(len(g.held), len(g.target_held)) < MIN_HELD or g.name not in enough]
    if len(groups) < 2 or few:
        have = ", ".join(f"{name} ({int(n)})" for name, n in smaller.items())
        raise SteerError(
            f"transfer needs two types with transfer.min_cells={settings.min_cells} cells on both sides; there are: {have}."
        )
    return groups


def score_all(experiment: Experiment, groups: Sequence[Group]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return scores (a row a scored type, recipe and space), gap fractions per gene, and the recipes' sizes."""
    config = experiment.context.config
    fits: dict[tuple[str, str], tuple[np.ndarray, dict[str, Any]]] = {}
    jobs = [(REST + " than " + g.name, [o for o in groups if o is not g]) for g in groups] + [(g.name, [g]) for g in groups]
    todo = [(objective, name, members) for objective in OBJECTIVES for name, members in jobs]
    for objective, name, members in track(todo, "fits", len(todo)):
        fits[objective, name] = fit_groups(experiment, members, replace(config.objective, name=objective))
    score_rows, genes = [], []
    for group in track(groups, "scores", len(groups)):
        scorer = Scorer(experiment, group.held, group.target_held, de_genes(experiment, group))
        target = experiment.expression[group.target_held]
        for label, state in _trials(experiment, groups, group, scorer, fits):
            rows = scorer.rows_of(state)
            score_rows += [{"score_on": group.name, **label, **row} for row in rows]
            if label["relation"] in ("own", "transferred", "no change"):
                gaps = gap_fraction(scorer.base.expression, state.expression, target, experiment.genes)
                genes.append(gaps.assign(score_on=group.name, **label))
    sizes = [{"objective": o, "fit_on": name, **info} for (o, name), (_, info) in fits.items()]
    scores = pd.DataFrame(score_rows)
    keys = ["score_on", "fit_on", "relation", "objective", "kind", "space"]
    scores = scores.groupby(keys, sort=False).mean().reset_index()  # random controls: mean over seeds
    return scores, pd.concat(genes, ignore_index=True), pd.DataFrame(sizes)


def _trials(
    experiment: Experiment,
    groups: Sequence[Group],
    group: Group,
    scorer: Scorer,
    fits: dict[tuple[str, str], tuple[np.ndarray, dict[str, Any]]],
) -> Iterator[tuple[dict[str, str], State]]:
    """Every edit that one type is scored on."""
    config = experiment.context.config
    rest = REST + " than " + group.name
    rng = np.random.default_rng([config.seed, 7])
    for objective in OBJECTIVES:
        for other in (rest, *(g.name for g in groups)):
            relation = "own" if other == group.name else "transferred" if other == rest else "single type"
            label = {"fit_on": REST if other == rest else other, "relation": relation, "objective": objective}
            yield label | {"kind": "recipe"}, scorer.recipe(fits[objective, other][0])
        for _ in range(config.transfer.n_random):
            theta = random_recipe(fits[objective, rest][0], experiment.active, rng)
            label = {"fit_on": REST, "relation": "random features, as transferred", "objective": objective}
            yield label | {"kind": "control"}, scorer.recipe(theta)
    yield {"fit_on": "", "relation": "no change", "objective": "none", "kind": "control"}, scorer.base
    source = experiment.split.source
    shifts = [
        mean_difference(experiment.layer[source[g.fit]], experiment.layer[g.target_fit]) for g in groups if g is not group
    ]
    vector = torch.as_tensor(np.mean(shifts, axis=0), dtype=torch.float32, device=experiment.cached.device)
    label = {"fit_on": REST, "relation": "mean difference (dense)", "objective": "none", "kind": "control"}
    yield label, scorer.state(add_vector(vector))


def de_genes(experiment: Experiment, group: Group) -> DEGenes:
    """Return one type's DE genes, chosen on the fit's cells."""
    source, target = experiment.expression[experiment.split.source[group.fit]], experiment.expression[group.target_fit]
    n = experiment.context.config.evaluate.n_genes
    return pick_de_genes(source, target, expressed_genes(experiment.counts[group.fit]), experiment.seen_genes, n)


def fit_groups(
    experiment: Experiment, groups: Sequence[Group], objective: ObjectiveConfig
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return theta (F,) of one objective on several types, each towards its own target, and its size.

    The latent fit is exact on all cells of the types. The expression fit is the mean over types of their objectives, each
    with its own gene weights and an equal share of objective.max_cells.
    """
    cells = np.concatenate([part for g in groups for part in (g.fit, [-1], g.target_fit, [-2])])
    lam = experiment.context.config.lam
    settings = {"objective": read_by(objective), "lambda": as_dict(lam), **cells_key(experiment)}
    settings["groups"] = hashlib.sha256(cells.astype(np.int64).tobytes()).hexdigest()[:16]

    def build(folder: Path) -> None:
        method = _fit_latent if objective.name == "latent" else _fit_expression
        theta, ratio = method(experiment, groups, objective)
        np.save(folder / "theta.npy", theta)
        np.save(folder / "ratio.npy", ratio)

    parents = [experiment.streams, experiment.dictionary.artefact]
    path = experiment.context.store.get("transfer-fit", version=VERSION, config=settings, parents=parents, build=build).path
    theta = np.load(path / "theta.npy")
    return theta, {"ratio": float(np.load(path / "ratio.npy")), **counts(theta)}


def _fit_latent(experiment: Experiment, groups: Sequence[Group], objective: ObjectiveConfig) -> tuple[np.ndarray, float]:
    rows = np.concatenate([g.fit for g in groups])
    mu = np.concatenate([np.repeat(experiment.layer[g.target_fit].mean(0)[None], len(g.fit), 0) for g in groups])
    free = experiment.learnable(objective.learnable)
    W_dec = experiment.sae.W_dec.detach().cpu().numpy()
    problem = LatentProblem(experiment.zbar[rows], W_dec, experiment.layer[experiment.split.source[rows]], mu, free)
    weight = weight_of(experiment.context.config.lam, problem.lam_max)
    return problem.solve(weight).theta, weight / problem.lam_max


def _fit_expression(experiment: Experiment, groups: Sequence[Group], objective: ObjectiveConfig) -> tuple[np.ndarray, float]:
    config = experiment.context.config
    rng = np.random.default_rng([config.seed, 8])
    share = max(1, objective.max_cells // len(groups))
    problems = []
    for group in groups:
        source, goal = experiment.expression[experiment.split.source[group.fit]], experiment.expression[group.target_fit]
        weights = gene_weights(goal, source, experiment.seen_genes, objective.top_n)
        cells = np.sort(rng.permutation(group.fit)[:share])
        options: dict[str, Any] = {"batch_size": config.model.batch_size}
        problems.append(ExpressionObjective(experiment.cached, cells, experiment.sae, goal.mean(0), weights, **options))

    def mean_of_both(theta: np.ndarray) -> tuple[float, np.ndarray]:
        found = [problem.value_and_gradient(theta) for problem in problems]
        return float(np.mean([value for value, _ in found])), np.asarray(np.mean([slope for _, slope in found], axis=0))

    learnable = experiment.learnable(objective.learnable)
    theta = np.zeros(experiment.sae.n_features)
    gradient = np.where(learnable, mean_of_both(theta)[1], 0.0)
    largest = float(np.abs(gradient).max())
    weight, step = weight_of(config.lam, largest), 0.5 / largest
    lam = largest
    while lam > weight:
        lam = max(weight, lam / NODE_RATIO)
        tolerance = objective.tolerance * float(np.linalg.norm(np.maximum(np.abs(gradient) - lam, 0)))
        sizes = {"tolerance": tolerance, "max_steps": objective.max_steps}
        found = solve(mean_of_both, theta, lam, learnable=learnable, step=step, **sizes)  # type: ignore[arg-type]
        theta, step = found.theta, found.step
    return theta, weight / largest


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the table people read: a row a scored type and recipe."""
    some = scores[scores["relation"] != "single type"]
    spaces = {"layer": "latent (layer)", "final": "latent (final)", "de_up": "DE up", "de_down": "DE down"}
    rows = []
    for (score_on, objective, relation), group in some.groupby(["score_on", "objective", "relation"], sort=False):
        row = {"score_on": score_on, "objective": objective, "recipe": relation}
        for hit in group[group["space"].isin(list(spaces))].itertuples():
            row[spaces[str(hit.space)]] = f"{hit.closer:.0%} ({hit.change:+.1%})"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def marker_table(markers: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each marker's gap that is closed, a row a scored type and recipe, a column a gene."""
    some = markers[markers["relation"].isin(["own", "transferred"])]
    wide = some.pivot_table(index=["score_on", "objective", "relation"], columns="gene", values="gap_fraction", sort=False)
    return wide.map(lambda x: f"{x:+.0%}").reset_index()
