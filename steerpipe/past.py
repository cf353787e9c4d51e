"""Run folders of earlier commands, found again by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SteerError
from .run import flatten, read_object, run_folders


@dataclass(frozen=True)
class Past:
    """A run folder as found on disk: its manifest and its metrics; `name` is its path below the outputs."""

    path: Path
    name: str
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """Flat numbers; none when the run ended before it had any."""
        return read_object(self.path / "metrics.json") or {}

    @property
    def overrides(self) -> str:
        return " ".join(self.manifest.get("overrides", []))

    def value(self, key: str) -> Any:
        """A metric, a setting (sae.k) or a line of the manifest (status); None when there is none of that name."""
        flat = self.metrics | flatten(self.manifest.get("config", {}))
        return flat.get(key, self.manifest.get(key))

    def row(self) -> dict[str, Any]:
        """The run as plain data."""
        names = ("stage", "status", "start", "seconds", "seed", "overrides", "error")
        kept = {name: self.manifest[name] for name in names if name in self.manifest}
        return {"run": self.name, "path": str(self.path), **kept, "metrics": self.metrics}


def find_runs(outputs: Path) -> list[Past]:
    """Return every run folder below `outputs`, oldest first; the store is not looked at, damaged manifests are left out."""
    return [Past(folder, str(folder.relative_to(outputs)), manifest) for folder, manifest in run_folders(outputs)]


def resolve_run(name: str, outputs: Path) -> Past:
    """Return the run that a name means: `last`, a path, or the beginning of stage/date/time or of the time.

    Raises
    ------
    SteerError
        No run, or more than one, goes by that name.
    """
    every = find_runs(outputs)
    if (Path(name) / "manifest.json").is_file():
        folder = Path(name)
        return next((r for r in every if r.path.resolve() == folder.resolve()), None) or Past(
            folder, name, read_object(folder / "manifest.json") or {}
        )
    if not every:
        raise SteerError(f"no runs in {outputs}; start with: steer run")
    if name == "last":
        return every[-1]
    found: Past = one_by_name(name, {run.name: run for run in every}, "runs", outputs)
    return found


def one_by_name(name: str, named: dict[str, Any], what: str, outputs: Path) -> Any:
    """Return the value whose key is a name, or begins with it, whole or in its last part.

    Raises
    ------
    SteerError
        None, or more than one, does.
    """
    hits = [key for key in named if key == name] or [
        key for key in named if key.startswith(name) or Path(key).name.startswith(name)
    ]
    if len(hits) != 1:
        which = f": {', '.join(hits[:4])}{', ...' if len(hits) > 4 else ''}" if hits else ""
        raise SteerError(f"'{name}' names {len(hits)} {what} in {outputs}{which}; see: steer runs")
    return named[hits[0]]
