"""`steer extract`: the model's activations over a dataset."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..config import Config
from ..pipeline.activations import extract_part, plan, planned_block, planned_nulls
from ..pipeline.null_plan import NullFits, evaluated_fits
from ..pipeline.pipeline import Pipeline
from ..run import Run
from . import COMMANDS


def main(pipeline: Pipeline, run: Run) -> None:
    """Extract, and report what was stored; or only plan it."""
    config = pipeline.config
    if config.extract.plan:
        study = study_plan(config.extract.plan_of)
        if hasattr(study, "extraction"):
            config = study.extraction(config)
        found = plan(replace(pipeline, config=config))
        print(found.lines(), flush=True)
        run.metrics(found.row())
        counted = null_fits(config, config.extract.plan_of)
        nulls = None if counted is None else planned_nulls(config, found, counted)
        if nulls is not None:
            print(nulls.lines(), flush=True)
            run.metrics({"plan/null_fits": nulls.model_refits, "plan/null_seconds": nulls.seconds})
        if study is not None and found.seconds is not None:
            line, numbers = study.cost(config, planned_block(config, found))
            print(line, flush=True)
            run.metrics(numbers)
        return
    if config.extract.part is not None:
        extract_part(pipeline)
        return
    made = pipeline.activations()
    files = [file for file in made.artefact.path.rglob("*") if file.is_file()]
    run.metrics(
        {
            "extract/cells": made.tokens.n_cells,
            "extract/genes": made.tokens.n_genes,
            "extract/width": made.tokens.width,
            "extract/tokens": made.tokens.n_tokens(np.arange(made.tokens.n_cells)),
            "extract/policy": str(made.policy),
            "extract/bytes": sum(file.stat().st_size for file in files),
            "extract/seconds": made.artefact.seconds,
        }
    )
    run.table("genes", pd.read_csv(made.artefact.path / "genes.csv"))


def null_fits(config: Config, planned: str | None) -> NullFits | None:
    """Return the fits of a planned command that get a null; None for one that draws none."""
    if planned in ("evaluate", "run", "plot"):
        return evaluated_fits(config)
    folder = planned_study(planned)
    counted = None if folder is None else getattr(importlib.import_module(folder), "null_fits", None)
    return None if counted is None else NullFits(*counted(config))


def study_plan(planned: str | None) -> Any:
    """Return the module in which a planned study tells its own cost: `cost`, and `extraction` where it needs another one."""
    name = f"{planned_study(planned)}.plan"
    return importlib.import_module(name) if planned_study(planned) and importlib.util.find_spec(name) else None


def planned_study(planned: str | None) -> str | None:
    """Return the package of the study that a planned command runs; None for one that runs none."""
    found = next((one.study for one in COMMANDS if one.module == planned), None)
    return None if found is None else f"steerpipe.studies.{found}"
