"""A pipeline with a run folder, as commands are given them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from steerpipe.pipeline.pipeline import Pipeline
from steerpipe.run import Run


@dataclass(frozen=True)
class Made(Pipeline):
    """A pipeline and the run that its commands report to."""

    run: Run = field(kw_only=True)


def a_run(folder: Path, command: str = "test") -> Run:
    """Return a run in a folder that exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, command, {})
