"""Trackers: a run's settings, numbers and curves sent to Trackio, Weights & Biases or MLflow as well.

The run folder (metrics.json, metrics.jsonl) is always written; a tracker is a copy for people who look at many runs in its
own pages. Its package is imported when it is used, and is no requirement of steerpipe.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from .errors import SteerError, unknown


class Tracker(Protocol):
    """What a run tells a tracker, in this order: start, numbers and curves in any order, finish."""

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        """Open a run: its name and its flat settings."""

    def numbers(self, values: Mapping[str, float]) -> None:
        """Send final numbers, `group/name`."""

    def curve(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Send a curve, one row a step; the column `tokens` counts the steps where there is one."""

    def finish(self, status: str) -> None:
        """Close the run: done, failed or stopped."""


class _Module:
    """A tracker with the interface that Trackio and Weights & Biases share."""

    def __init__(self, package: str, project: str) -> None:
        self.api, self.project = _imported(package), project

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        self.run = self.api.init(project=self.project, name=name, config=dict(settings))

    def numbers(self, values: Mapping[str, float]) -> None:
        self.api.log(dict(values))

    def curve(self, rows: Iterable[Mapping[str, float]]) -> None:
        for row in rows:
            self.api.log({f"curve/{key}": value for key, value in row.items()})

    def finish(self, status: str) -> None:
        self.api.log({"failed": float(status != "done")})
        self.api.finish()


class _MLflow:
    """MLflow's client of its own: no global run, so that parallel jobs do not meet."""

    def __init__(self, project: str, uri: str | None) -> None:
        self.client = _imported("mlflow").tracking.MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(project)
        self.experiment = found.experiment_id if found else self.client.create_experiment(project)

    def start(self, name: str, settings: Mapping[str, Any]) -> None:
        self.id = self.client.create_run(self.experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.id, key, str(value)[:500])

    def numbers(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.client.log_metric(self.id, key, value)

    def curve(self, rows: Iterable[Mapping[str, float]]) -> None:
        for step, row in enumerate(rows):
            for key, value in row.items():
                if key != "tokens":
                    self.client.log_metric(self.id, f"curve/{key}", value, step=int(row.get("tokens", step)))

    def finish(self, status: str) -> None:
        self.client.set_terminated(self.id, {"done": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED"))


def make_tracker(name: str, project: str, uri: str | None = None) -> Tracker | None:
    """Return the tracker of a name; None for jsonl, which the run folder is.

    Raises
    ------
    SteerError
        No such tracker, or its package is not installed.
    """
    if name == "jsonl":
        return None
    if name == "mlflow":
        return _MLflow(project, uri)
    if name in ("trackio", "wandb"):
        return _Module(name, project)
    raise unknown("tracker", name, ("jsonl", "trackio", "wandb", "mlflow"))


def finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a run's metrics a tracker can draw: finite numbers."""
    numbers = {k: v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SteerError(f"tracker={package} needs its package: pip install {package}, or use tracker=jsonl.") from error
