"""What a study hands back: tables, figures, numbers and lines, by the names that a run folder keeps them under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass
class Findings:
    """What a study found.

    Attributes
    ----------
    tables : name -> frame
    figures : name -> the figure and the frame behind it
    numbers : `group/name` -> value
    texts : name -> lines; `conclusion` is what the report begins with
    files : name with its ending -> content, for formats of other tools
    """

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, tuple[Figure, pd.DataFrame]] = field(default_factory=dict)
    numbers: dict[str, float | int | str] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Add a table."""
        self.tables[name] = frame

    def figure(self, name: str, figure: Figure, data: pd.DataFrame) -> None:
        """Add a figure and the frame behind it."""
        self.figures[name] = figure, data

    def metrics(self, values: Mapping[str, float | int | str]) -> None:
        """Add numbers."""
        self.numbers.update(values)

    def text(self, name: str, lines: Sequence[str]) -> None:
        """Add lines of text."""
        self.texts[name] = list(lines)

    def file(self, name: str, content: str) -> None:
        """Add a file in another tool's format."""
        self.files[name] = content
