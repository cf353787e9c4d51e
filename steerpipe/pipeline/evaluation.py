"""Every fit on cells that it never saw, beside its controls and its permutation null."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import as_dict
from ..errors import SteerError
from ..evaluate.agreement import agreement_of_dictionaries
from ..evaluate.de import de_signs
from ..evaluate.entanglement import feature_entanglement
from ..evaluate.inference import add_null, over_dictionaries
from ..evaluate.trials import Candidate, Tables, score_all
from .artefact import Artefact, built
from .checkpoint import require_head
from .context import Context
from .experiment import Experiment, Sides, prepare
from .fit import Recipe, fit, stand_in_table
from .problems import solve
from .program import check_program, phenotype
from .program_scores import score_table, summary
from .scoring import judged, scorer

log = logging.getLogger(__name__)
VERSION = 3
N_RANDOM_FEATURES = 100
TABLES = [name for name in (*Tables._fields, "entanglement") if name != "effects"]
"""Kept tables that an Evaluation shows as they are."""


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation, of the first dictionary but for `scores` and `dictionaries`.

    Attributes
    ----------
    scores : one row per recipe, split, space and score: see evaluate.inference.COLUMNS. Random controls are means over seeds,
        with the 2.5 and 97.5 percentiles over seeds; over several dictionaries values are means, lo and hi the range
    null : one row per recipe, space, score and deal of the permutation null
    cells : one row per recipe, split, space and cell: distance before and after; of kind null those of the null's recipes
    genes : gap fraction per recipe and gene, held-out cells; no rows for a model without an output head
    paths : the fits' lambda paths
    agreement : the published reading: per recipe, split and space the share of cells closer and the Wilcoxon p over cells
    directions : per recipe, split and set of genes: share that moved towards the target, binomial p, gap fraction
    cumulative : per recipe, the same over the k genes of largest effect, for every k; held-out cells
    steering_genes : per recipe, the genes that it moved (paired t-test, Bonferroni), and how far; held-out cells
    entanglement : per recipe and recruited feature, and for active features drawn at random
    dictionaries : how alike recipes of several dictionaries are, one row a recipe; empty for one dictionary
    programs : per recipe of objective=program, how its programme rises, see program_scores.summary
    stand_ins : per latent recipe and recruited feature, the features that could stand in for it
    """

    artefact: Artefact
    recipes: list[Recipe]
    scores: pd.DataFrame
    null: pd.DataFrame
    cells: pd.DataFrame
    genes: pd.DataFrame
    paths: pd.DataFrame
    agreement: pd.DataFrame
    directions: pd.DataFrame
    cumulative: pd.DataFrame
    steering_genes: pd.DataFrame
    entanglement: pd.DataFrame
    dictionaries: pd.DataFrame
    stand_ins: pd.DataFrame
    programs: pd.DataFrame


def evaluation(context: Context) -> Evaluation:
    """Return the evaluation of the configured objectives, fitting and scoring what is missing.

    With evaluate.dictionaries > 1 dictionary, fits and scores are repeated for so many seeds of the SAE.
    """
    config = context.config
    names = [config.objective.named(name).name for name in config.evaluate.objectives]
    require_head(config, names, "evaluate.objectives=[latent]")
    check_program(config, names)
    n = config.evaluate.dictionaries
    if n > 1 and config.sae.path is not None:
        raise SteerError("evaluate.dictionaries trains one for each seed, but sae.path names a file: take sae=x8_k32, or 1.")
    found: list[Evaluation] = []
    thetas = []
    for seed in range(config.sae.seed, config.sae.seed + n):
        other = replace(context, config=replace(config, sae=replace(config.sae, seed=seed)))
        if n > 1:
            log.info("dictionary %d of %d (sae.seed=%d)", len(found) + 1, n, seed)
        one, experiment = _one_dictionary(other)
        found.append(one)
        W_dec = experiment.sae.W_dec.detach().cpu().numpy()
        thetas.append({recipe.objective: (recipe.theta, W_dec) for recipe in one.recipes})
    first = found[0]
    if n == 1:
        return first
    scores = over_dictionaries([one.scores for one in found], [one.null for one in found])
    effects = [pd.read_parquet(one.artefact.path / "effects.parquet") for one in found]
    return replace(first, scores=scores, dictionaries=agreement_of_dictionaries(effects, thetas))


def _one_dictionary(context: Context) -> tuple[Evaluation, Experiment]:
    config = context.config
    experiment = prepare(context, scored=True)
    recipes = [fit(experiment, config.objective.named(name)) for name in config.evaluate.objectives]

    def build(folder: Path) -> None:
        # held-out cells have a target of their own
        scorers = {split: scorer(experiment, split) for split in ("fit", "held")}
        some = [candidate(experiment, recipe) for recipe in recipes]
        found = score_all(scorers, some, experiment.active, experiment.genes if experiment.has_head else [])
        tangled = (
            entanglement(experiment, recipes, scorers["fit"].expressed) if experiment.has_head else pd.DataFrame({"recipe": []})
        )
        for name, table in (found._asdict() | {"entanglement": tangled}).items():
            table.to_parquet(folder / f"{name}.parquet", index=False)

    settings = as_dict(config.evaluate)
    for name in ("markers", "n_permutations", "n_permutations_model", "dictionaries", "umap"):
        settings.pop(name)
    parents = [recipe.artefact for recipe in recipes]
    # the table depends on the gene split, the cells' split and the donors even where a fit does not
    settings |= {"seed": config.seed, "seen_genes": config.objective.seen_genes, "contrast": as_dict(config.contrast)}
    settings["batch"] = config.dataset.batch
    artefact = built(context, "evaluate", build, version=VERSION, reads=settings, parents=parents)
    tables = {name: pd.read_parquet(artefact.path / f"{name}.parquet") for name in TABLES}
    paths = pd.concat([recipe.path.assign(objective=recipe.objective) for recipe in recipes], ignore_index=True)
    held, nulls, cells = scorer(experiment), [], []
    for recipe in recipes:
        scores, beside = judged(experiment, recipe.settings, held)
        nulls.append(scores.assign(recipe=recipe.objective, split="held"))
        cells.append(beside.assign(recipe=recipe.objective, split="held", kind="null"))
    null = pd.concat(nulls, ignore_index=True)
    tables["scores"] = add_null(tables["scores"], null)
    tables["cells"] = pd.concat([tables["cells"], *(frame for frame in cells if len(frame))], ignore_index=True)
    beside = stand_in_table(experiment, recipes)
    risen = [
        summary(score_table(phenotype(experiment), one)).assign(recipe=one.objective)
        for one in recipes
        if one.settings.name == "program" and one.theta.any()
    ]
    tables |= {"programs": pd.concat(risen) if risen else pd.DataFrame(), "dictionaries": pd.DataFrame()}
    return Evaluation(artefact, recipes, null=null, paths=paths, stand_ins=beside, **tables), experiment


def candidate(experiment: Experiment, recipe: Recipe) -> Candidate:
    """Return a fit as it is scored, with its half dose where evaluate.half_dose asks for it."""
    config = experiment.context.config.evaluate
    half = half_dose(experiment, recipe) if config.half_dose and config.controls == "all" else None
    return Candidate(recipe.objective, recipe.theta, recipe.mode, recipe.refit, half)


def half_dose(experiment: Experiment, recipe: Recipe) -> np.ndarray:
    """Return the recipe (F,) that aims the fit's source cells at cells drawn from both sides: half of the true difference."""
    source, target = experiment.sides
    rng = np.random.default_rng([experiment.context.config.seed, 12])
    mixed = np.sort(rng.permutation(np.concatenate([source, target]))[: len(target)])
    return solve(experiment, recipe.settings, [Sides(source, mixed)], experiment.context.config.lam).theta


def entanglement(experiment: Experiment, recipes: list[Recipe], expressed: np.ndarray) -> pd.DataFrame:
    """Return the entanglement of each recipe's features, and of active features drawn at random."""
    split, config = experiment.split, experiment.context.config
    rng = np.random.default_rng([config.seed, 5])
    groups = {recipe.objective: np.flatnonzero(recipe.theta) for recipe in recipes}
    groups["random active features"] = np.sort(rng.permutation(np.flatnonzero(experiment.active))[:N_RANDOM_FEATURES])
    signs = de_signs(experiment.expression[split.source_fit], experiment.expression[split.target_fit], expressed)
    whole, batch_size = experiment.dictionary.sae, config.model.batch_size
    return feature_entanglement(experiment.cached, whole, groups, experiment.fit_rows, signs, batch_size=batch_size)
