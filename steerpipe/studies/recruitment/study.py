"""`steer diagnose`: are the features that an objective recruits real, or overshoot on weak genes?"""

from __future__ import annotations

import logging

import pandas as pd

from ...config import Config
from ...errors import SteerError
from ...evaluate.tables import LEGEND
from ...pipeline.checkpoint import require_head
from ...pipeline.pipeline import Pipeline
from ...pipeline.program import check_program
from ...pipeline.scoring import require_multiply, scored, scorer
from ...plot.provenance import caption
from ..findings import Findings
from . import compute
from . import figure as figures
from .table import background, calibration_table, conclusion, feature_table, readable, verdict_table

log = logging.getLogger(__name__)


def study(pipeline: Pipeline) -> Findings:
    """Run the configured parts, print their tables, and draw them."""
    config, found = pipeline.config, Findings()
    _check(config)
    check_program(config, [config.objective.name])
    experiment = pipeline.experiment(scored=True)
    recipes = compute.fit_both(experiment)
    wanted = config.diagnose.parts
    text = caption(config, str(experiment.activations.policy))
    how = scorer(experiment)
    tables: dict[str, pd.DataFrame] = {}
    found.table(
        "scores", pd.concat([scored(experiment, one, how, one.objective) for one in recipes.values()], ignore_index=True)
    )
    ratios = config.diagnose.ratios if "path" in wanted else []
    tables["equal"] = compute.equal_tables(experiment, recipes, ratios)
    if "cap" in wanted:
        tables["cap"] = compute.cap(experiment, config.diagnose.top_n)
    if "path" in wanted:
        tables["path"] = compute.lambda_path(experiment, recipes, ratios)
        found.figure("lambda_path", figures.lambda_path(tables["path"], text), tables["path"])
    if "floors" in wanted or "stability" in wanted:
        tables["features"] = feature_table(experiment, recipes)
    if "floors" in wanted:
        above, active = background(experiment)
        found.metrics({"floors/active": active, "floors/active_above_activation_floor": above})
        log.info("activation floor: %d of all %d active features are above it", above, active)
    if "verdict" in tables.get("features", ()):
        tables["verdicts"] = verdict_table(tables["features"])
        for row in tables["verdicts"].itertuples():
            found.metrics({f"verdict/{row.features}/{row.verdict}": row.n})
        tables["calibration"] = calibration_table(experiment, recipes)
        for row in tables["calibration"].itertuples():
            found.metrics({f"calibration/{row.objective}/share": row.share})
    if "widths" in wanted:
        tables["widths"] = compute.widths(experiment, config.diagnose.expansions)
        if len(tables["widths"]):
            found.figure("widths", figures.widths(tables["widths"], caption(config, None)), tables["widths"])
    for name, table in tables.items():
        found.table(name, table)
        log.info("%s:\n%s", name, readable(name, table).to_string(index=False))
    log.info("%s", LEGEND)
    if "calibration" in tables:
        lines = conclusion(tables["features"], tables["calibration"])
        found.text("conclusion", lines)
        log.info("%s", "\n".join(lines))
    if {"cap", "path", "verdicts"} <= tables.keys():
        drawn = {name: tables[name] for name in ("cap", "path", "features")}
        figure = figures.recruitment(**drawn, stable=config.diagnose.stable, caption=text)
        found.figure("recruitment", figure, pd.concat([t.assign(panel=n) for n, t in drawn.items()], ignore_index=True))
    return found


def _check(config: Config) -> None:
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    require_multiply(config, "diagnose")
    if config.lam.mode == "absolute":
        raise SteerError("diagnose compares the objectives at one lambda ratio: add lambda=ratio lambda.value=0.05.")
