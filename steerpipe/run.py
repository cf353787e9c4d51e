"""The run folder: manifest, metrics, tables, figures and the log of one command."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .store import Artefact
from .tracking import Tracker, finite_numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PACKAGES = ("steerpipe", "torch", "numpy", "scipy", "scanpy", "anndata", "hydra-core", "numba")


class Run:
    """One run folder; a context manager that records how the command ended.

    Parameters
    ----------
    path : the folder, made by Hydra
    stage : the command
    config : the resolved config, plain data
    overrides, config_dir : what the command line gave, for `steer rerun`
    tracker : told the settings, numbers and curves as well
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        config: dict[str, Any],
        *,
        overrides: Sequence[str] = (),
        config_dir: str | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        import torch

        self._tracker = tracker
        self.path = path
        self.manifest: dict[str, Any] = {
            "stage": stage,
            "status": "running",
            "command": " ".join(["steer", *sys.argv[1:]]),
            "overrides": list(overrides),
            "config_dir": config_dir,
            "folder": str(Path.cwd()),
            "seed": config.get("seed"),
            "start": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "git": _git(),
            "config": config,
        }
        self._metrics: dict[str, float | int | str] = {}

    def __enter__(self) -> Run:
        self._clock = time.perf_counter()
        self.path.mkdir(parents=True, exist_ok=True)
        self._write()
        if self._tracker is not None:
            name = f"{self.manifest['stage']} {self.path.parent.name}/{self.path.name}"
            self._tracker.start(name, flatten(self.manifest["config"]))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        self.manifest["status"] = "done" if error is None else "stopped" if stopped else "failed"
        if error is not None:
            self.manifest["error"] = f"{type(error).__name__}: {error}".strip(": ")
        self.manifest["seconds"] = round(time.perf_counter() - self._clock, 3)
        self._write()
        if self._tracker is not None:
            self._tracker.numbers(finite_numbers(self._metrics))
            self._tracker.finish(self.manifest["status"])

    def artefacts(self, used: list[Artefact]) -> None:
        """Record which artefacts the run stands on, and whether it built or reused them."""
        self.manifest["artefacts"] = [
            {"stage": a.stage, "key": a.key, "path": str(a.path), "reused": a.reused, "seconds": round(a.seconds, 3)}
            for a in used
        ]

    @property
    def sweep(self) -> Path | None:
        """The folder of the sweep that this run is a job of."""
        return self.path.parent if self.path.parent.name.endswith("_sweep") else None

    def metrics(self, values: Mapping[str, float | int | str]) -> None:
        """Add to metrics.json, a flat dict of `group/name`."""
        self._metrics.update(values)
        _replace(self.path / "metrics.json", json.dumps({k: _finite(v) for k, v in self._metrics.items()}, indent=1))

    def curve(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl, a row a step."""
        _replace(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if self._tracker is not None:
            self._tracker.curve(rows)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a table as CSV."""
        save_table(self.path, name, frame)

    def text(self, name: str, lines: Sequence[str]) -> None:
        """Write name.txt, one line each."""
        _replace(self.path / f"{name}.txt", "".join(f"{line}\n" for line in lines))

    def file(self, name: str, content: str) -> None:
        """Write a file in another tool's format."""
        _replace(self.path / name, content)

    def figure(self, name: str, figure: Figure, data: pd.DataFrame) -> None:
        """Write plots/name.png and .svg, with the CSV behind them."""
        save_figure(self.path, name, figure, data)

    def _write(self) -> None:
        _replace(self.path / "manifest.json", json.dumps(self.manifest, indent=1, default=str))


def save_table(folder: Path, name: str, frame: pd.DataFrame) -> None:
    """Write name.csv: beside, then a rename."""
    _replace(folder / f"{name}.csv", frame.to_csv(index=False))


def save_figure(folder: Path, name: str, figure: Figure, data: pd.DataFrame) -> None:
    """Write plots/name.png and .svg, with the CSV behind them."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    figure.savefig(plots / f"{name}.png", dpi=150)
    figure.set_layout_engine("none")  # the places that were just found, which cost more than the drawing, are the SVG's too
    figure.savefig(plots / f"{name}.svg", metadata={"Date": None})
    save_table(plots, name, data)


def run_folders(outputs: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, manifest) of every run below `outputs`, oldest first; neither the store nor damaged ones."""
    found = []
    for folder, folders, files in os.walk(outputs):
        if "manifest.json" in files:
            folders.clear()
            manifest = read_object(Path(folder) / "manifest.json")
            if manifest is not None and "start" in manifest and "stage" in manifest:
                found.append((Path(folder), manifest))
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found, key=lambda run: (run[1]["start"], str(run[0].relative_to(outputs))))


def scored_jobs(sweep: Path) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Return (folder, config, metrics) of each job of a sweep that has written its metrics."""
    found = (
        (file.parent, read_object(file), read_object(file.parent / "metrics.json")) for file in sweep.glob("*/manifest.json")
    )
    return [
        (job, manifest["config"], numbers)
        for job, manifest, numbers in sorted(found, key=lambda one: one[0])
        if manifest and numbers
    ]


def read_object(path: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None where there is no file, or it holds anything else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as {a.b.c: value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(text)
    beside.replace(path)


def _finite(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # `steer runs` does not wait for it

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git() -> str | None:
    """The commit of the code, with + when the tree has changes; None outside a checkout."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return ask("rev-parse", "--short=12", "HEAD") + ("+" if ask("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
