"""`steer recipe`: a phenotype to features, to terms, to genes to perturb, and back to the phenotype."""

from __future__ import annotations

import logging

from ...config import Config
from ...data.genesets import load_library
from ...errors import SteerError
from ...pipeline.checkpoint import require_head
from ...pipeline.fit import fit, recipe_table
from ...pipeline.pipeline import Pipeline
from ...pipeline.program import Phenotype, check_program, phenotype
from ...pipeline.program_scores import held_scorer, score_table, summary
from ...plot.provenance import model_phrase, sae_phrase
from ..findings import Findings
from .candidates import candidate_genes
from .compute import Back, loop_p
from .figure import score_bars, three_panels
from .perturb import KINDS, Perturbation
from .table import Answer
from .terms import feature_terms

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Fit, score, annotate, translate back, close the loop, print and draw."""
    check(pipeline.config)
    experiment = pipeline.experiment(scored=True)
    asked = phenotype(experiment)
    candidates, own = candidate_genes(asked)
    _say(asked)
    found = Findings()
    recipe = fit(experiment, pipeline.config.objective.named("program"))
    found.table("recipe", recipe_table(recipe, experiment))
    found.metrics({f"fit/{name}": value for name, value in recipe.info.items()})
    if not recipe.theta.any():
        lines = [f"{asked.name}: nothing: no feature raises the programme at this lambda ({recipe.info['lam']:.3g})."]
        found.text("conclusion", lines)
        log.info("%s", lines[0])
        return found
    scores = score_table(asked, recipe)
    back = Back(asked, recipe, candidates, own)
    genes, explained = back.explained()
    named = [Perturbation(int(row.column), KINDS.index(row.kind)) for row in genes[genes["named"]].itertuples()]
    loop = back.loop(named, held_scorer(experiment).rows) if named else None
    terms, summed = feature_terms(asked, recipe), summary(scores)
    p = float("nan") if loop is None else loop_p(loop)
    answer = Answer(asked.name, int((recipe.theta != 0).sum()), summed, terms, genes, explained, loop, p)
    tables = {"scores": summed, "draws": scores, "features": terms, "genes": genes} | ({} if loop is None else {"loop": loop})
    for name, frame in tables.items():
        found.table(name, frame)
    found.metrics(answer.metrics())
    found.text("conclusion", answer.lines())
    log.info("held-out cells:\n%s", summed[summed["half"] != "all"].to_string(index=False, float_format="{:.3g}".format))
    log.info("%s", "\n".join(answer.lines()))
    bars = score_bars(answer)
    found.figure("recipe", three_panels(answer, bars, _caption(asked, back)), bars)
    return found


def check(config: Config) -> None:
    """Refuse, before anything is computed, settings under which there is no recipe.

    Raises
    ------
    SteerError
        No programme, no head, no such library, a mode without a recipe, or a readout that perturbed cells do not have.
    """
    check_program(config)
    require_head(config, ["program"], "model=mini, or a checkpoint that has one")
    load_library(config.annotate.library)
    if config.objective.mode == "clamp":
        raise SteerError("objective.mode=clamp is fitted for objective=latent: take multiply or add for a recipe.")
    if config.model.readout != "reconstruction":
        raise SteerError("a recipe's perturbed cells are read whole: use model.readout=reconstruction.")


def _say(asked: Phenotype) -> None:
    """Log which genes there are, and which the data lacks."""
    genes = asked.experiment.genes
    for what, some in zip(("up", "down"), asked.program, strict=True):
        if len(some):
            seen = " ".join(genes[i] + "*" * (not asked.seen[i]) for i in some[:40])
            log.info("%s, %s: %d genes, * held out: %s%s", asked.name, what, len(some), seen, " ..." * (len(some) > 40))
    if asked.missing:
        more = " ..." * (len(asked.missing) > 40)
        log.info("%d genes that the data lacks: %s%s", len(asked.missing), " ".join(asked.missing[:40]), more)


def _caption(asked: Phenotype, back: Back) -> str:
    config = asked.experiment.context.config
    settings = config.recipe
    kind = settings.candidates if isinstance(settings.candidates, str) else "listed"
    return (
        f"{model_phrase(config)} · layer {config.layer.index} · {sae_phrase(config)} · source {config.contrast.source} · "
        f"{len(asked.program.genes)} genes, half held out · move at most {settings.max_shift:g} spreads · "
        f"{len(back.candidates)} {kind} candidates in {len(back.rows)} cells of the fit"
    )
