"""`steer runs` and `steer show`: what has been run, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import SteerError

OUTPUTS = Annotated[Path, typer.Option(help="The folder of run folders.")]


def find_runs(outputs: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return every run folder below `outputs` with its manifest, oldest first."""
    found = [(p.parent, json.loads(p.read_text())) for p in outputs.glob("**/manifest.json") if ".store" not in p.parts]
    return sorted(found, key=lambda pair: (pair[1]["start"], str(pair[0])))


def resolve_run(name: str, outputs: Path) -> tuple[Path, dict[str, Any]]:
    """Return the run that a name means: `last`, a path, or the beginning of stage/date/time or of the time.

    Raises
    ------
    SteerError
        No run, or more than one, goes by that name.
    """
    every = find_runs(outputs)
    if not every:
        raise SteerError(f"no runs in {outputs}; start with: steer run")
    if name == "last":
        return every[-1]
    hits = [
        pair
        for pair in every
        if Path(name).resolve() == pair[0].resolve()
        or any(str(part).startswith(name) for part in (pair[0].relative_to(outputs), pair[0].name))
    ]
    if len(hits) != 1:
        raise SteerError(f"'{name}' names {len(hits)} runs in {outputs}; see: steer runs")
    return hits[0]


def list_runs(outputs: OUTPUTS = Path("outputs")) -> None:
    """List the runs, oldest first."""
    table = Table("run", "stage", "status", "seconds", "overrides")
    for path, manifest in find_runs(outputs):
        overrides = " ".join(word for word in manifest["command"].split()[2:] if "=" in word)
        table.add_row(
            str(path.relative_to(outputs)), manifest["stage"], manifest["status"], str(manifest.get("seconds", "")), overrides
        )
    Console().print(table)


def show(
    name: Annotated[str, typer.Argument(help="last, a path, or a prefix.")] = "last", outputs: OUTPUTS = Path("outputs")
) -> None:
    """Show one run: how it ended, what it stands on, its numbers and files."""
    try:
        path, manifest = resolve_run(name, outputs)
    except SteerError as error:
        Console(stderr=True).print(str(error), markup=False)
        raise typer.Exit(1) from None
    console = Console()
    console.print(
        f"[bold]{path}[/bold]  {manifest['status']}, {manifest.get('seconds', '?')} s, {manifest['start']}", soft_wrap=True
    )
    console.print(manifest["command"], markup=False, soft_wrap=True)
    if "error" in manifest:
        console.print(manifest["error"], markup=False, soft_wrap=True)
    for artefact in manifest.get("artefacts", []):
        how = "reused" if artefact["reused"] else "built"
        console.print(f"  {how} {artefact['stage']} {artefact['key']} ({artefact['seconds']:.1f} s)")
    metrics = path / "metrics.json"
    if metrics.is_file():
        table = Table("metric", "value")
        for key, value in json.loads(metrics.read_text()).items():
            table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        console.print(table)
    for file in sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file() and ".hydra" not in p.parts):
        console.print(f"  {file}", highlight=False)
