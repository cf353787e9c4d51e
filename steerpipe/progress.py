"""Progress bars that are quiet when nobody watches, and log lines that do not break them."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
QUIET = "STEER_QUIET"
"""Environment variable, set by `-q`, that draws no bars: the processes of a launcher inherit it."""


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Log lines to what standard error is now: while a bar is drawn, rich takes them and puts them above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; on a terminal scores within their null (evaluate.tables.GREY) are grey."""
        text = super().format(record)
        return re.sub(r"~[^\s]+", "\x1b[90m\\g<0>\x1b[0m", text) if self.stream.isatty() else text


class Rate(ProgressColumn):
    """Items per second, of late."""

    def render(self, task: Task) -> Text:
        """Return the rate of one bar."""
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s", style="progress.data.speed"
        )


@contextmanager
def progress() -> Iterator[Progress]:
    """Open a progress display with rate and time left on standard error.

    Nothing is drawn where that is neither a terminal nor a notebook with ipywidgets.
    """
    console = Console(stderr=True)
    watched = _widgets() if console.is_jupyter else console.is_terminal
    columns = ("[progress.description]{task.description}", BarColumn(), "{task.completed:,.0f}/{task.total:,.0f}")
    bar = Progress(
        *columns,
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not watched or bool(os.environ.get(QUIET)),
    )
    with bar:
        yield bar


def _widgets() -> bool:
    """Whether rich can draw in a notebook: without ipywidgets it warns, at every refresh."""
    return importlib.util.find_spec("ipywidgets") is not None


def add_task(bar: Progress, description: str, total: float) -> TaskID:
    """Add one line to the display."""
    return bar.add_task(description, total=total, note="")


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items under a progress bar."""
    with progress() as bar:
        task = add_task(bar, description, total)
        for item in items:
            yield item
            bar.advance(task)
