"""What several tests make: a pipeline with a run folder, and `steer` called in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import pytest

from steerpipe.cli.app import main
from steerpipe.cli.hydra import compose
from steerpipe.errors import SteerError
from steerpipe.pipeline.pipeline import Pipeline
from steerpipe.run import Run
from steerpipe.store import Store


@dataclass(frozen=True)
class Made(Pipeline):
    """A pipeline and the run that its commands report to."""

    run: Run = field(kw_only=True)


def a_run(folder: Path, command: str = "test") -> Run:
    """Return a run in a folder that exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, command, {})


def refused(study: ModuleType, context: Made, folder: Path, message: str) -> None:
    """Check that a study refuses a context in one line, before anything is computed into an empty store in `folder`."""
    with pytest.raises(SteerError, match=message) as error:
        study.study(replace(context, store=Store(folder)))
    assert "\n" not in str(error.value)
    assert not list(folder.rglob("artefact.json"))


def maker(folder: Path, *words: str) -> Callable[..., Made]:
    """Return what makes a context of some words and further ones: one store in `folder`, and a run folder each."""

    def make(*overrides: str) -> Made:
        run = a_run(folder / f"run{len(list(folder.glob('run*')))}")
        return Made(compose(*words, *overrides), Store(folder / "store"), run=run)

    return make


@contextmanager
def own_logging() -> Iterator[None]:
    """Give logging back as it was: a command sets handlers of its own."""
    kept, level = logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        for handler in set(logging.root.handlers) - set(kept):
            handler.close()
        logging.root.handlers = kept
        logging.root.setLevel(level)


def called(*words: str) -> int:
    """Call `steer` in this process; return its exit code."""
    with own_logging(), pytest.raises(SystemExit) as end:
        main(list(words))
    return end.value.code
