"""`steer report`: one self-contained HTML page for a run, a sweep or two runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from ..commands import COMMANDS
from ..errors import SteerError, UsageError
from ..past import resolve_run
from .runs import OUTPUTS, differences, resolve_sweep, sweep_rows


def captions() -> dict[str, str]:
    """Return what is seen in every figure of a command or a study, by the figure's name."""
    from ..plot.captions import CAPTIONS

    found = dict(CAPTIONS)
    for command in COMMANDS:
        if command.study is not None:
            found |= importlib.import_module(f"steerpipe.studies.{command.study}").CAPTIONS
    return found


def report(
    names: Annotated[list[str] | None, typer.Argument(help="A run, a sweep, or two runs: last, a path, or a prefix.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; else report.html in the run's folder.")
    ] = None,
    outputs: OUTPUTS = Path("outputs"),
) -> None:
    """Write report.html: figures, tables, controls, config and provenance in one file that needs no network."""
    from ..report import page

    wanted = names or ["last"]
    if len(wanted) > 2:
        raise UsageError("steer report takes one run or sweep, or two runs.")
    if len(wanted) == 2:
        a, b = (resolve_run(name, outputs) for name in wanted)
        path = output or outputs / f"compare_{a.name.replace('/', '_')}_{b.name.replace('/', '_')}.html"
        html = page.comparison_page(a.path, b.path, *differences(a, b), captions=captions())
    else:
        try:
            run = resolve_run(wanted[0], outputs)
        except SteerError as no_run:
            try:
                name, runs = resolve_sweep(wanted[0], outputs)
            except SteerError:
                raise no_run from None
            path = output or runs[0].path.parent / "report.html"
            html = page.sweep_page(name, [one.manifest for one in runs], *sweep_rows(runs))
        else:
            path, html = output or run.path / "report.html", page.run_page(run.path, captions())
    page.write_page(path, html)
    print(path)
