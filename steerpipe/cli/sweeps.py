"""What became of a sweep's jobs: one that fails leaves the others alone, and the sweep ends by naming it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ..errors import SteerError
from ..run import read_object


class Jobs(Callback):
    """Hydra's callback (conf/config.yaml) that knows the folder of the sweep, which no one else is told."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Jobs.folder = Path(config.hydra.sweep.dir)


def check_jobs(folder: Path) -> None:
    """Refuse to end quietly where a job of a sweep failed.

    Raises
    ------
    SteerError
        Names every job that failed, what was swept in it, and why; the exit code is then 1.
    """
    jobs = sorted((job for job in folder.iterdir() if job.name.isdigit()), key=lambda job: int(job.name))
    manifests = [read_object(job / "manifest.json") or {} for job in jobs]
    words = [set(manifest.get("overrides", [])) for manifest in manifests]
    shared = set.intersection(*words) if words else set()
    lines = [
        f"  job {job.name}{_swept(manifest, shared)}: {reason(manifest) or 'ended without a word'}"
        for job, manifest in zip(jobs, manifests, strict=True)
        if manifest.get("status") != "done"
    ]
    if lines:
        rest = "" if len(lines) == len(jobs) else "; the others are done"
        raise SteerError("\n".join([f"{len(lines)} of {len(jobs)} jobs failed{rest} ({folder}):", *lines]))


def reason(manifest: dict[str, Any]) -> str | None:
    """Return why a run failed, without the name of our own error; None for one that did not."""
    error = manifest.get("error")
    return None if error is None else str(error).removeprefix("SteerError: ")


def _swept(manifest: dict[str, Any], shared: set[str]) -> str:
    own = [word for word in manifest.get("overrides", []) if word not in shared]
    return f" ({' '.join(own)})" if own else ""
