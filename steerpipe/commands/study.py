"""Every command that runs a study: what it finds goes to the run folder; of a sweep, what all jobs say to the sweep's."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from pathlib import Path

from ..pipeline.pipeline import Pipeline
from ..run import Run, save_figure, save_table, scored_jobs
from ..studies.findings import Findings

log = logging.getLogger(__name__)


def main(name: str, pipeline: Pipeline, run: Run) -> None:
    """Run a study, and write its tables, figures, numbers and lines to the run folder."""
    found: Findings = importlib.import_module(f"steerpipe.studies.{name}.study").study(pipeline)
    for table, frame in found.tables.items():
        run.table(table, frame)
    for figure, (drawn, data) in found.figures.items():
        run.figure(figure, drawn, data)
    for text, lines in found.texts.items():
        run.text(text, lines)
    for file, content in found.files.items():
        run.file(file, content)
    run.metrics(found.numbers)
    if run.sweep is not None and importlib.util.find_spec(f"steerpipe.studies.{name}.sweep"):
        _sweep(name, run.sweep)


def _sweep(name: str, folder: Path) -> None:
    """Write what the finished jobs of a study's sweep say together; every job that ends writes it anew."""
    whole: Findings = importlib.import_module(f"steerpipe.studies.{name}.sweep").sweep(scored_jobs(folder))
    for table, frame in whole.tables.items():
        save_table(folder, table, frame)
        log.info("the sweep so far:\n%s", frame.to_string(index=False, float_format="{:.3g}".format))
    for figure, (drawn, data) in whole.figures.items():
        save_figure(folder, figure, drawn, data)
    for lines in whole.texts.values():
        log.info("%s", "\n".join(lines))
