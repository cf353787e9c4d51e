"""The table of differences from the published code, printed after the tests."""

from __future__ import annotations

import pytest

ROWS: list[tuple[str, ...]] = []
TITLES = ("configuration", "tokens", "weights", "what", "max |difference|", "sd of the reference")


@pytest.fixture
def parity_table():
    """Function that takes one row: configuration, tokens, weights, what, difference, spread."""

    def add(configuration, tokens, weights, what, difference, spread):
        ROWS.append((configuration, str(tokens), weights, what, f"{difference:.1e}", f"{spread:.2f}"))

    return add


def pytest_terminal_summary(terminalreporter):
    """Print the rows, if any."""
    if not ROWS:
        return
    widths = [max(map(len, column)) for column in zip(TITLES, *ROWS, strict=True)]
    terminalreporter.section("parity with modelgenerator's AIDO.Cell, float32, random weights")
    for row in (TITLES, *ROWS):
        terminalreporter.write_line("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
