"""`steer knockdown`: recipes of real perturbations, against their DE genes, each other, and their genes' programmes."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd

from ...data.labels import find_label
from ...errors import SteerError
from ...evaluate.knockdown import block_test, cosines, names_dealt
from ...pipeline.checkpoint import require_head
from ...pipeline.experiment import Experiment, prepare
from ...pipeline.pipeline import Pipeline
from ...pipeline.scoring import require_multiply
from ...plot.provenance import model_phrase, sae_phrase
from ...progress import track
from ..findings import Findings
from .compute import Bench, Measured, measure
from .figure import knockdown
from .programmes import known
from .table import lines, programme_rows, readable, row, similarity_frame, with_q
from .targets import check, find_targets, finder

log = logging.getLogger(__name__)
N_DEALT = 10_000
TOP = 12
"""Features of a recipe that are listed."""


def study(pipeline: Pipeline) -> Findings:
    """Fit and score every perturbation, print and draw."""
    config, found = pipeline.config, Findings()
    require_head(config, ["expression"], "model=local model.path=..., a model of the dataset's own panel (steer pretrain)")
    require_multiply(config, "knockdown")
    if config.objective.tokens != "genes":
        raise SteerError("knockdown scores means over all genes: use objective.tokens=genes.")
    check(config)
    experiment = prepare(pipeline, find=finder(config))
    targets, bench = find_targets(experiment), Bench(experiment)
    names = [one.name for one in targets]
    block = [find_label(name, names, what="perturbation in knockdown.block") for name in config.knockdown.block]
    log.info("%d perturbations, %d control cells to fit on and %d held out", len(targets), len(targets[0].sides.source),
             len(experiment.held_rows))  # fmt: skip
    tables: list[pd.DataFrame] = []
    said: list[str] = []
    for name in config.knockdown.objectives:
        objective = replace(config.objective, name=name)
        some = [measure(bench, target, objective) for target in track(targets, f"knockdown, {name}", len(targets))]
        tables.append(_one(experiment, some, block, found, said))
    table = pd.concat(tables, ignore_index=True)
    found.table("perturbations", table)
    found.text("conclusion", said)
    log.info("held-out cells:\n%s", readable(table).to_string(index=False))
    log.info("%s", "\n".join(said))
    return found


def _one(experiment: Experiment, some: list[Measured], block: list[str], found: Findings, said: list[str]) -> pd.DataFrame:
    """Read one objective's recipes, add its tables and figure, and return its rows."""
    config, objective = experiment.context.config, some[0].objective
    names = [one.target.name for one in some]
    table = with_q(pd.DataFrame([row(one) for one in some]))
    norms = np.linalg.norm(experiment.sae.W_dec.detach().cpu().double().numpy(), axis=1)
    zbar = experiment.zbar[some[0].target.sides.source].mean(0)
    similarity = cosines(np.array([one.theta * zbar * norms for one in some]))
    rng = np.random.default_rng([config.seed, 94])
    inside = np.isin(names, block)
    test = block_test(similarity, inside, N_DEALT, rng) if 2 <= inside.sum() < len(names) else None
    aurocs = known(experiment, some, config.knockdown.min_terms)
    programmes = programme_rows(aurocs, objective)
    mean = names_dealt(aurocs, N_DEALT, rng) if aurocs else (float("nan"), float("nan"))
    said += lines(table, programmes, mean, test, objective)
    end = "" if objective == "latent" else f"_{objective}"
    found.table(f"programmes{end}", programmes)
    found.table(f"similarity{end}", similarity_frame(similarity, names).reset_index())
    found.table(f"features{end}", _features(experiment, some))
    found.table(f"arms{end}", pd.concat([one.scores.assign(perturbation=one.target.name) for one in some], ignore_index=True))
    found.table(f"genes{end}", _genes(experiment, some))
    numbers = {"auprc": table["auprc"].median(), "chance": table["chance"].median(), "beyond": (table["auprc_q"] <= 0.05).sum()}
    numbers |= {"programme_auroc": mean[0], "programme_p": mean[1]}
    numbers |= {} if test is None else {"block_within": test.within, "block_between": test.between, "block_p": test.p}
    found.metrics({f"{objective}/{name}": float(value) for name, value in numbers.items()})
    text = f"{model_phrase(config)} · layer {config.layer.index} · {sae_phrase(config)} · {objective}"
    frame = similarity_frame(similarity, names)
    found.figure(f"knockdown{end}", knockdown(table, frame, block, text), table)
    return table


def _features(experiment: Experiment, some: list[Measured]) -> pd.DataFrame:
    """The features of largest |theta| of every recipe, with what they are called."""
    features = experiment.annotation.features.set_index("feature")
    rows = []
    for one in some:
        for feature in np.argsort(-np.abs(one.theta), kind="stable")[:TOP]:
            if one.theta[feature]:
                mine = features.loc[feature]
                genes = ", ".join(mine["genes"].split(", ")[:8])
                rows.append({"perturbation": one.target.name, "feature": int(feature), "theta": float(one.theta[feature]),
                             "label": mine["label"], "label_q": mine["label_q"], "genes": genes})  # fmt: skip
    return pd.DataFrame(rows, columns=["perturbation", "feature", "theta", "label", "label_q", "genes"])


def _genes(experiment: Experiment, some: list[Measured]) -> pd.DataFrame:
    """Predicted and real change of every ranked gene."""
    frames = []
    for one in some:
        at = np.flatnonzero(one.among)
        genes = [experiment.genes[i] for i in at]
        frames.append(pd.DataFrame({"perturbation": one.target.name, "gene": genes, "predicted": one.predicted[at],
                                    "real": one.real[at], "de": one.signs[at]}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)
