"""`steer runs`, `show`, `diff`, `sweep-table`: what has been run, and what came of it."""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SteerError, UsageError, unknown
from ..past import Past, find_runs, one_by_name, resolve_run
from ..run import flatten

if TYPE_CHECKING:
    from rich.table import Table

OUTPUTS = Annotated[Path, typer.Option(help="The folder of run folders.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
NAME = Annotated[str, typer.Argument(help="last, a path, or a prefix.")]
OPERATORS = {">=": operator.ge, "<=": operator.le, "!=": operator.ne, "=": operator.eq, ">": operator.gt, "<": operator.lt}


def resolve_sweep(name: str, outputs: Path) -> tuple[str, list[Past]]:
    """Return a sweep's name and runs: `last`, its path, or the beginning of its name; jobs in their order."""
    sweeps: dict[str, list[Past]] = {}
    for run in find_runs(outputs):
        parent = str(Path(run.name).parent)
        if parent.endswith("_sweep"):
            sweeps.setdefault(parent, []).append(run)
    if not sweeps:
        raise SteerError(f"no sweeps in {outputs}; start one with -m: steer fit -m lambda=1e-3,1e-2")
    for runs in sweeps.values():
        runs.sort(key=lambda run: (len(run.path.name), run.path.name))
    found = list(sweeps)[-1] if name == "last" else None
    found = found or next((key for key in sweeps if (outputs / key).resolve() == Path(name).resolve()), None)
    return (found, sweeps[found]) if found else (name, one_by_name(name, sweeps, "sweeps", outputs))


def list_runs(
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keep runs where this holds: stage=fit, sae.k>16, fit/ratio<0.1."),
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Sort by a metric, a setting or a line of the manifest.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", "-r", help="Largest first.")] = False,
    columns: Annotated[str, typer.Option(help="Further columns, with commas between.")] = "",
    outputs: OUTPUTS = Path("outputs"),
    as_json: JSON = False,
) -> None:
    """List the runs, oldest first; filter and sort by any metric or setting."""
    runs = [run for run in find_runs(outputs) if all(_holds(run, text) for text in filters or [])]
    if sort is not None:
        having = [run for run in runs if run.value(sort) is not None]
        if runs and not having:
            raise unknown("--sort", sort, _names(runs))
        having.sort(key=lambda run: _order(run.value(sort)), reverse=reverse)
        runs = having + [run for run in runs if run.value(sort) is None]
    elif reverse:
        runs.reverse()
    extra = [name for name in columns.split(",") if name] + ([sort] if sort and sort not in columns.split(",") else [])
    why = ["error"] if any(run.manifest.get("error") for run in runs) and "error" not in extra else []
    if as_json:
        _json([run.row() | {name: run.value(name) for name in extra} for run in runs])
        return
    rows = [
        [
            run.name,
            run.manifest["stage"],
            run.manifest["status"],
            run.manifest.get("seconds"),
            *map(run.value, extra),
            run.overrides,
            *[run.manifest.get(name) for name in why],
        ]
        for run in runs
    ]
    _print(["run", "stage", "status", "seconds", *extra, "overrides", *why], rows)


def show(name: NAME = "last", outputs: OUTPUTS = Path("outputs"), as_json: JSON = False) -> None:
    """Show one run: how it ended, what it stands on, its numbers and files."""
    run = resolve_run(name, outputs)
    files = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file() and ".hydra" not in p.parts)
    if as_json:
        _json(run.manifest | {"path": str(run.path), "metrics": run.metrics, "files": files})
        return
    manifest = run.manifest
    _say(f"{run.path}  {manifest['status']}, {manifest.get('seconds', '?')} s, {manifest['start']}")
    _say(manifest.get("command", ""))
    if "error" in manifest:
        _say(manifest["error"])
    for artefact in manifest.get("artefacts", []):
        how = "reused" if artefact["reused"] else "built"
        _say(f"  {how} {artefact['stage']} {artefact['key']} ({artefact['seconds']:.1f} s)")
    if run.metrics:
        _print(["metric", "value"], [list(pair) for pair in run.metrics.items()])
    for file in files:
        _say(f"  {file}")


def diff(a: NAME, b: NAME = "last", outputs: OUTPUTS = Path("outputs"), as_json: JSON = False) -> None:
    """Compare two runs: the settings and the numbers that differ."""
    first, second = resolve_run(a, outputs), resolve_run(b, outputs)
    config, metrics = differences(first, second)
    parts = {"config": config, "metrics": metrics}
    if as_json:
        _json({"a": first.name, "b": second.name, **parts})
        return
    for part, rows in parts.items():
        _say(f"{part}: {len(rows)} differ" if rows else f"{part}: equal")
        if rows:
            table = [[key, *pair, _difference(*pair)] for key, pair in rows.items()]
            _print([part, first.name, second.name, "difference"], table)


def differences(first: Past, second: Past) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return {name: [in the first, in the second]} of the settings and of the numbers that differ."""
    configs = [flatten(run.manifest.get("config", {})) for run in (first, second)]
    found = []
    for left, right in (configs, [first.metrics, second.metrics]):
        keys = dict.fromkeys([*left, *right])
        found.append({k: [left.get(k), right.get(k)] for k in keys if left.get(k) != right.get(k)})
    return found[0], found[1]


def sweep_table(
    name: Annotated[str, typer.Argument(help="last, a path, or a prefix.")] = "last",
    metrics: Annotated[str, typer.Option(help="Columns, with commas between; * stands for anything.")] = "",
    sort: Annotated[str | None, typer.Option(help="Sort by a column.")] = None,
    outputs: OUTPUTS = Path("outputs"),
    as_json: JSON = False,
) -> None:
    """Put a sweep's runs into one table: what was swept, and the numbers."""
    columns, rows = sweep_rows(resolve_sweep(name, outputs)[1])
    wanted = [re.compile(re.escape(pattern).replace(r"\*", ".*")) for pattern in metrics.split(",") if pattern]
    swept = columns[: columns.index("status") + 1]
    columns = [c for c in columns if c in swept or not wanted or any(w.fullmatch(c) for w in wanted)]
    if sort is not None:
        if sort not in columns:
            raise unknown("column", sort, columns)
        rows.sort(key=lambda row: _order(row.get(sort)))
    if as_json:
        _json([{c: row.get(c) for c in columns} for row in rows])
        return
    _print(columns, [[row.get(c) for c in columns] for row in rows])


def sweep_rows(runs: list[Past]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns (job, swept settings, status, metrics) and one row a run of a sweep."""
    configs = [flatten(run.manifest.get("config", {})) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    swept = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]
    numbers = dict.fromkeys(key for run in runs for key in run.metrics)
    columns = ["job", *swept, "status", *numbers]
    rows = []
    for run, config in zip(runs, configs, strict=True):
        rows.append(
            {"job": run.path.name, **{k: config.get(k) for k in swept}, "status": run.manifest["status"], **run.metrics}
        )
    return columns, rows


def _holds(run: Past, text: str) -> bool:
    hit = re.fullmatch(r"([^<>=!]+)(>=|<=|!=|=|>|<)(.*)", text)
    if hit is None:
        raise UsageError(f"cannot read the filter '{text}'; it is KEY=VALUE, KEY>VALUE or KEY<VALUE, such as 'sae.k>16'.")
    found, wanted = run.value(hit[1].strip()), hit[3].strip()
    if found is None:
        return hit[2] == "!="
    compare = OPERATORS[hit[2]]
    try:
        return bool(compare(float(found), float(wanted)))
    except (TypeError, ValueError):
        return bool(compare(str(found).lower(), wanted.lower()))


def _names(runs: list[Past]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in [*run.metrics, "seconds", "start", "stage", "status"]))


def _order(value: Any) -> tuple[int, Any]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value) if number else (1, str(value)) if value is not None else (2, "")


def _difference(left: Any, right: Any) -> str:
    numbers = [isinstance(x, (int, float)) and not isinstance(x, bool) for x in (left, right)]
    return f"{right - left:+.4g}" if all(numbers) else ""


def _cells(values: list[Any]) -> Iterator[str]:
    for value in values:
        yield "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _print(columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table for people; a terminal's width is kept to, a pipe gets whole lines."""
    from rich.console import Console
    from rich.table import Table

    table: Table = Table(*columns)
    for row in rows:
        table.add_row(*_cells(row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, console.measure(table).maximum))
    console.print(table, markup=False)


def _say(line: str) -> None:
    print(line)


def _json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, default=str)
    print()
