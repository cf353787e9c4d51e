"""`steer evaluate`: every fit in both geometries, on cells that it never saw, beside its controls."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import as_dict
from ..store import Artefact
from .checkpoint import require_head
from .common import Context
from .experiment import prepare
from .fit import Recipe, fit
from .trials import CEILING, Tables, score_all

__all__ = ["CEILING", "Evaluation", "evaluation", "main", "report", "summary", "two_by_two"]

log = logging.getLogger(__name__)
VERSION = 2
GEOMETRIES = {"layer": "latent", "final": "latent", "de_up": "expression", "de_down": "expression"}


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation.

    Attributes
    ----------
    scores : one row per recipe, split and space (see evaluate.distances.Score and evaluate.metrics.METRICS; random controls
        are means over seeds, and their intervals are the 2.5 and 97.5 percentiles over seeds)
    cells : one row per recipe, split, space and cell: distance before and after
    genes : gap fraction per recipe and gene, held-out cells; no rows for a model without an output head
    paths : the fits' lambda paths
    directions : per recipe, split and set of genes: share that moved towards the target, binomial p, gap fraction
    cumulative : per recipe, the same over the k genes of largest effect, for every k; held-out cells
    steering_genes : per recipe, the genes that it moved (paired t-test, Bonferroni), and how far; held-out cells
    entanglement : per recipe and recruited feature, and for active features drawn at random
    """

    artefact: Artefact
    recipes: list[Recipe]
    scores: pd.DataFrame
    cells: pd.DataFrame
    genes: pd.DataFrame
    paths: pd.DataFrame
    directions: pd.DataFrame
    cumulative: pd.DataFrame
    steering_genes: pd.DataFrame
    entanglement: pd.DataFrame


def main(context: Context) -> None:
    """Evaluate, and report the table."""
    report(context, evaluation(context))


def report(context: Context, found: Evaluation) -> None:
    """Write an evaluation's tables and numbers to the run folder."""
    run = context.run
    run.table("scores", found.scores)
    run.table("two_by_two", two_by_two(found.scores))
    run.table("genes", found.genes[found.genes["kind"] == "recipe"])
    run.table("markers", found.genes[found.genes["gene"].isin(context.config.evaluate.markers)])
    for name in ("paths", "directions", "cumulative", "steering_genes", "entanglement"):
        run.table(name, getattr(found, name))
    for recipe in found.recipes:
        run.metrics({f"{recipe.objective}/{name}": value for name, value in recipe.info.items()})
    held = found.scores[(found.scores["split"] == "held") & (found.scores["kind"] != "control")]
    for row in held.itertuples():
        run.metrics({f"{row.recipe}/{row.space}_closer": row.closer, f"{row.recipe}/{row.space}_change": row.change})
    log.info("held-out cells:\n%s", summary(found.scores).to_string(index=False))
    if len(found.genes):
        _report_genes(context, found)


def _report_genes(context: Context, found: Evaluation) -> None:
    """Log direction and entanglement, and keep both as metrics."""
    table = found.directions
    for row in table[(table["split"] == "held") & (table["genes"] == "de") & (table["kind"] == "recipe")].itertuples():
        values = {"right": row.right, "right_p": row.p, "gap_fraction": row.gap_fraction, "overshoot": row.overshoot}
        context.run.metrics({f"{row.recipe}/de_{name}": value for name, value in values.items()})
        log.info(
            "%s: %.0f %% of the DE genes move the right way (p = %.2g), by %.0f %% [%.0f, %.0f] of the gap; %.0f %% overshoot",
            row.recipe, 100 * row.right, row.p, 100 * row.gap_fraction, 100 * row.gap_fraction_lo, 100 * row.gap_fraction_hi,
            100 * row.overshoot,
        )  # fmt: skip
    for name, group in found.entanglement.groupby("recipe", sort=False):
        mean = float(group["entanglement"].mean())
        context.run.metrics({f"{name}/entanglement": mean})
        log.info("%s: mean entanglement of %d features %.2f", name, len(group), mean)


def two_by_two(scores: pd.DataFrame) -> pd.DataFrame:
    """Return every recipe in both geometries, on held-out and on the fit's cells, with intervals."""
    some = scores[(scores["kind"] == "recipe") & scores["space"].isin(list(GEOMETRIES))].copy()
    some.insert(1, "geometry", some["space"].map(GEOMETRIES))
    return some.drop(columns=["kind", "seeds"]).reset_index(drop=True)


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
        for name, table in score_all(experiment, recipes, config.evaluate)._asdict().items():
            table.to_parquet(folder / f"{name}.parquet", index=False)

    settings = as_dict(config.evaluate)
    settings.pop("markers")
    parents = [recipe.artefact for recipe in recipes]
    # the table depends on the gene split and the labels' split even where a fit does not
    settings |= {"seed": config.seed, "seen_genes": config.objective.seen_genes, "contrast": as_dict(config.contrast)}
    artefact = context.store.get("evaluate", version=VERSION, config=settings, parents=parents, build=build)
    tables = {name: pd.read_parquet(artefact.path / f"{name}.parquet") for name in Tables._fields}
    paths = pd.concat([recipe.path.assign(objective=recipe.objective) for recipe in recipes], ignore_index=True)
    return Evaluation(artefact, recipes, paths=paths, **tables)
