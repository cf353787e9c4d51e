"""A sweep's jobs: composed from one config; one that fails leaves the others alone, and the sweep ends by naming it.

Hydra composes every job's config from its some fifty files, twice: a check before the first, and again for the job. Where jobs
differ in values alone, all that differs is what those values are set to in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ..errors import SteerError
from ..run import read_object
from .schema import PLAIN

Compose = Callable[[ConfigLoaderImpl, DictConfig, list[str]], DictConfig]


class Jobs(Callback):
    """Hydra's callback (conf/config.yaml) that knows the folder of the sweep, which no one else is told."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Jobs.folder = Path(config.hydra.sweep.dir)


@contextmanager
def composed_once() -> Iterator[None]:
    """Compose what a sweep's jobs share but once: a job then is a copy, in which its values are set as Hydra sets them."""
    composed = ConfigLoaderImpl.load_sweep_config
    ConfigLoaderImpl.load_sweep_config = from_shared(composed)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_sweep_config = composed  # type: ignore[method-assign]


def from_shared(compose: Compose) -> Compose:
    """Return Hydra's `load_sweep_config` with a memory: it composes anew where a job's choice of files differs."""
    known: dict[tuple[str, ...], DictConfig] = {}

    def load(loader: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        values = [override for override in parsed if _is_value(override)]
        choices = tuple(str(override.input_line) for override in parsed if not _is_value(override))
        if choices not in known:
            known[choices] = compose(loader, master_config, list(choices))
        config = copy.deepcopy(known[choices])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        ours = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in ours]
        names = OmegaConf.to_container(config.hydra.job.config.override_dirname)
        config.hydra.job.override_dirname = get_overrides_dirname(overrides=ours, **names)  # type: ignore[arg-type]
        return config

    return load


def _is_value(override: Override) -> bool:
    """Whether an override sets a value of a group, or one beside them, and so changes nothing in which files are read."""
    if override.is_delete() or override.is_add() or override.is_force_add() or override.is_hydra_override():
        return False
    return override.package is None and ("." in override.key_or_group or override.key_or_group in PLAIN)


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
