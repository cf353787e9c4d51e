"""`steer evaluate`: every fit in both geometries, on cells that it never saw, beside its controls."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import EvaluateConfig, as_dict
from ..evaluate.de import direction_test, gap_fraction
from ..evaluate.distances import distances, nearest_mean, score
from ..progress import track
from ..steering.controls import mean_difference, random_direction, random_recipe, shuffle_sides
from ..steering.intervene import Edit, State, add_vector, run_edit, scale_features, splice
from ..store import Artefact
from .checkpoint import require_head
from .common import Context
from .experiment import Experiment, prepare
from .fit import Recipe, fit, latent_problem

log = logging.getLogger(__name__)
VERSION = 1
CEILING = "split-half ceiling"


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation.

    Attributes
    ----------
    scores : one row per recipe, split and space (see evaluate.distances.Score; random controls are means over seeds,
        and their intervals are the 2.5 and 97.5 percentiles over seeds)
    cells : one row per recipe, split, space and cell: distance before and after
    genes : gap fraction per gene, held-out cells; no rows for a model without an output head
    paths : the fits' lambda paths
    """

    artefact: Artefact
    recipes: list[Recipe]
    scores: pd.DataFrame
    cells: pd.DataFrame
    genes: pd.DataFrame
    paths: pd.DataFrame


@dataclass(frozen=True)
class Trial:
    """One edit to score; several of one name are seeds of a random control."""

    name: str
    kind: str
    edit: Edit | None
    splits: tuple[str, ...] = ("held",)


def main(context: Context) -> None:
    """Evaluate, and report the table."""
    report(context, evaluation(context))


def report(context: Context, found: Evaluation) -> None:
    """Write an evaluation's tables and numbers to the run folder."""
    run = context.run
    run.table("scores", found.scores)
    run.table("genes", found.genes)
    run.table("paths", found.paths)
    markers = found.genes[found.genes["gene"].isin(context.config.evaluate.markers)]
    run.table("markers", markers)
    for recipe in found.recipes:
        run.metrics({f"{recipe.objective}/{name}": value for name, value in recipe.info.items()})
    held = found.scores[(found.scores["split"] == "held") & (found.scores["kind"] != "control")]
    for row in held.itertuples():
        run.metrics({f"{row.recipe}/{row.space}_closer": row.closer, f"{row.recipe}/{row.space}_change": row.change})
    log.info("held-out cells:\n%s", summary(found.scores).to_string(index=False))


def summary(scores: pd.DataFrame, split: str = "held") -> pd.DataFrame:
    """Return the table people read: a row a recipe, share closer and median change of distance in four spaces."""
    some = scores[scores["split"] == split]
    spaces = {"layer": "latent (layer)", "final": "latent (final)", "de_up": "DE up", "de_down": "DE down"}
    rows = []
    for recipe, group in some.groupby("recipe", sort=False):
        row = {"recipe": recipe}
        for space, title in spaces.items():
            hit = group[group["space"] == space]
            if len(hit):
                closer, change = hit["closer"].iloc[0], hit["change"].iloc[0]
                share = "" if np.isnan(closer) else f"{closer:.0%} "
                row[title] = f"{share}({change:+.1%})"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def evaluation(context: Context) -> Evaluation:
    """Return the evaluation of the configured objectives, fitting and scoring what is missing."""
    config = context.config
    require_head(config, config.evaluate.objectives, "evaluate.objectives=[latent]")
    experiment = prepare(context)
    recipes = [fit(experiment, replace(config.objective, name=name)) for name in config.evaluate.objectives]

    def build(folder: Path) -> None:
        scores, cells, genes = _score_all(experiment, recipes, config.evaluate)
        scores.to_csv(folder / "scores.csv", index=False)
        cells.to_parquet(folder / "cells.parquet", index=False)
        genes.to_csv(folder / "genes.csv", index=False)

    settings = as_dict(config.evaluate)
    settings.pop("markers")
    parents = [recipe.artefact for recipe in recipes]
    # the table depends on the gene split and the labels' split even where a fit does not
    settings |= {"seed": config.seed, "seen_genes": config.objective.seen_genes, "contrast": as_dict(config.contrast)}
    artefact = context.store.get("evaluate", version=VERSION, config=settings, parents=parents, build=build)
    path = artefact.path
    paths = pd.concat([recipe.path.assign(objective=recipe.objective) for recipe in recipes], ignore_index=True)
    tables = pd.read_csv(path / "scores.csv"), pd.read_parquet(path / "cells.parquet"), pd.read_csv(path / "genes.csv")
    return Evaluation(artefact, recipes, *tables, paths)


def _score_all(
    experiment: Experiment, recipes: list[Recipe], config: EvaluateConfig
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    batch = experiment.context.config.model.batch_size
    rows = {"fit": experiment.fit_rows, "held": experiment.held_rows}
    base = {name: run_edit(experiment.cached, cells, None, batch_size=batch) for name, cells in rows.items()}
    trials = list(_trials(experiment, recipes, config))
    score_rows: list[dict[str, object]] = []
    cell_rows, gene_frames = [], []
    for trial in track(trials, "evaluate", len(trials)):
        for split in trial.splits:
            no_op = trial.edit is None
            state = base[split] if no_op else run_edit(experiment.cached, rows[split], trial.edit, batch_size=batch)
            label = {"recipe": trial.name, "kind": trial.kind, "split": split}
            for space, (before, after) in _pairs(experiment, split, base[split], state).items():
                result = score(before, after, n_bootstrap=config.n_bootstrap, seed=experiment.context.config.seed)
                score_rows.append({**label, "space": space, **result.row()})
                cells = experiment.split.source[rows[split]]
                cell_rows.append(pd.DataFrame({**label, "space": space, "cell": cells, "before": before, "after": after}))
            if split == "held" and trial.kind == "recipe" and experiment.has_head:
                target = experiment.expression[experiment.split.target_held]
                gaps = gap_fraction(base[split].expression, state.expression, target, experiment.genes)
                share, p = direction_test(gaps, np.concatenate([experiment.de_genes.up, experiment.de_genes.down]))
                log.info("%s: %.0f %% of the DE genes move the right way (p = %.2g)", trial.name, 100 * share, p)
                gene_frames.append(gaps.assign(recipe=trial.name))
    if config.controls:
        score_rows += _ceiling(experiment, base["held"])
    scores = pd.DataFrame(score_rows)
    keys = ["recipe", "kind", "split", "space"]
    seeds = scores.groupby(keys, sort=False).size()
    means = scores.groupby(keys, sort=False).mean().reset_index()
    for name in ("closer", "change"):
        for bound, q in (("lo", 0.025), ("hi", 0.975)):
            over_seeds = scores.groupby(keys, sort=False)[name].quantile(q).to_numpy()
            means[f"{name}_{bound}"] = np.where(seeds.to_numpy() > 1, over_seeds, means[f"{name}_{bound}"])
    means["seeds"] = seeds.to_numpy()
    if not gene_frames:  # no output head: the columns alone
        none = np.zeros((1, 0))
        gene_frames = [gap_fraction(none, none, none, []).assign(recipe="")]
    return means, pd.concat(cell_rows, ignore_index=True), pd.concat(gene_frames, ignore_index=True)


def _trials(experiment: Experiment, recipes: list[Recipe], config: EvaluateConfig) -> Iterator[Trial]:
    """Every edit to score, controls after the recipes."""
    sae, split, seed = experiment.sae, experiment.split, experiment.context.config.seed
    device = experiment.cached.device

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    for recipe in recipes:
        yield Trial(recipe.objective, "recipe", scale_features(sae, tensor(recipe.theta)), ("fit", "held"))
    yield Trial("no-op", "control", None, ("fit", "held"))
    if not config.controls:
        return
    yield Trial("SAE spliced in", "control", splice(sae))
    source, target = experiment.layer[split.source_fit], experiment.layer[split.target_fit]
    yield Trial("mean difference (dense)", "control", add_vector(tensor(mean_difference(source, target))))
    rng = np.random.default_rng([seed, 3])
    for recipe in recipes:
        norm = _shift_norm(experiment, recipe)
        scaled = mean_difference(source, target, norm)
        yield Trial(f"mean difference, norm of {recipe.objective}", "control", add_vector(tensor(scaled)))
        for _ in range(config.n_random):
            theta = random_recipe(recipe.theta, experiment.active, rng)
            yield Trial(f"random features, as {recipe.objective}", "control", scale_features(sae, tensor(theta)))
        for _ in range(max(1, config.n_random // 4)):
            vector = random_direction(norm, source.shape[1], rng)
            yield Trial(f"random direction, norm of {recipe.objective}", "control", add_vector(tensor(vector)))
        if recipe.objective == "latent":
            _, shuffled = shuffle_sides(source, target, rng)
            problem = latent_problem(experiment, shuffled.mean(0))
            theta = problem.solve(min(1.0, recipe.info["ratio"]) * problem.lam_max).theta
            yield Trial("latent, labels shuffled", "control", scale_features(sae, tensor(theta)))


def _shift_norm(experiment: Experiment, recipe: Recipe) -> float:
    """Mean length of what a recipe adds to the fit cells' embeddings."""
    rows = experiment.fit_rows
    shift = (experiment.zbar[rows] * recipe.theta) @ experiment.sae.W_dec.detach().cpu().double().numpy()
    return float(np.linalg.norm(shift, axis=1).mean())


def _pairs(experiment: Experiment, split: str, before: State, after: State) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Distances of each cell to the target before and after, by space. Held-out cells have a target of their own."""
    cells = experiment.split.target_fit if split == "fit" else experiment.split.target_held
    pairs = {}
    for space, arrays in {"layer": experiment.layer, "final": experiment.final}.items():
        target = arrays[cells]
        a, b = getattr(before, space), getattr(after, space)
        pairs[space] = distances(a, target.mean(0)), distances(b, target.mean(0))
        if space == "layer":
            k = min(10, len(target))
            pairs["layer_nearest"] = nearest_mean(a, target, k), nearest_mean(b, target, k)
    if not experiment.has_head:
        return pairs
    mu = experiment.expression[cells].mean(0)
    for name, genes in experiment.de_genes.sets().items():
        a, b = before.expression[:, genes], after.expression[:, genes]
        pairs[f"de_{name}"] = distances(a, mu[genes]), distances(b, mu[genes])
    return pairs


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
