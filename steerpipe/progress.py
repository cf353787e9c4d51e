"""Progress bars that are quiet when nobody watches, and how results are rounded for the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


@contextmanager
def progress() -> Iterator[Progress]:
    """Open a progress display on standard error; nothing is drawn where that is not a terminal."""
    console = Console(stderr=True)
    columns = ("[progress.description]{task.description}", BarColumn(), "{task.completed:,.0f}/{task.total:,.0f}")
    bar = Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        yield bar


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
