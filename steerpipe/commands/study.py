"""Every command that runs a study: what it finds goes to the run folder."""

from __future__ import annotations

import importlib

from ..pipeline.pipeline import Pipeline
from ..run import Run
from ..studies.findings import Findings


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
