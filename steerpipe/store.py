"""Artefacts by content key: built beside under a lock, published by rename, reused by every later run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SteerError

log = logging.getLogger(__name__)
PINS = "pinned.txt"
"""File of the store that names what calls from notebooks stand on, a key a line."""


@dataclass(frozen=True)
class Artefact:
    """A finished piece of work.

    Attributes
    ----------
    stage, key : its name in the store
    path : its folder, never changed again
    reused : whether it was there before
    seconds : how long the building took, now or then
    """

    stage: str
    key: str
    path: Path
    reused: bool
    seconds: float


def content_key(stage: str, version: int, config: dict[str, Any], parents: Sequence[str]) -> str:
    """Return the key: a hash of the stage, its version, the sub-config that it reads and its inputs' keys."""
    text = json.dumps([stage, version, config, list(parents)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pins(root: Path) -> set[str]:
    """Return the keys of the artefacts that calls from notebooks stand on."""
    file = root / PINS
    return set(file.read_text().split()) if file.is_file() else set()


class Store:
    """The folder of artefacts.

    Parameters
    ----------
    root : usually outputs/.store
    reuse : auto (build what is missing), never (build anew), only (refuse to build)
    """

    def __init__(self, root: Path, reuse: str = "auto") -> None:
        self.root, self.reuse = root, reuse
        self.used: list[Artefact] = []

    def get(
        self,
        stage: str,
        *,
        version: int,
        config: dict[str, Any],
        parents: Sequence[Artefact] = (),
        inputs: Sequence[str] = (),
        build: Callable[[Path], None],
    ) -> Artefact:
        """Return the artefact of this content, building it when it is missing.

        Parameters
        ----------
        version : raised by hand when the stage's meaning changes
        config : what the stage reads, and no more
        parents, inputs : artefacts and digests of files that it reads
        build : fills the folder that it is given; a folder left by a killed run is given again, to resume in
        """
        key = content_key(stage, version, config, [*(p.key for p in parents), *inputs])
        path = self.root / stage / key
        found = next((a for a in self.used if (a.stage, a.key) == (stage, key)), None)
        if found is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, f"{stage} {key}"):  # two jobs of one sweep: the second waits and reuses
            artefact = self._reuse(stage, key, path)
            if artefact is None:
                artefact = self._build(stage, key, path, config, parents, build)
        self.used.append(artefact)
        return artefact

    def shared(self, stage: str, *, version: int, config: dict[str, Any], inputs: Sequence[str] = ()) -> Path | None:
        """Return the folder in which several processes build pieces of one artefact; None when it is there already.

        They must write different files, each under its own name by a rename; `get` then resumes from them and publishes.
        """
        path = self.root / stage / content_key(stage, version, config, list(inputs))
        if (path / "artefact.json").is_file():
            return None
        partial = path.with_name(f"{path.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def pin(self) -> None:
        """Note the artefacts that were used, which no run folder names: a notebook's call stands on them (see `pins`)."""
        known = pins(self.root)
        with (self.root / PINS).open("a") as file:
            file.writelines(f"{artefact.key}\n" for artefact in self.used if artefact.key not in known)

    def _reuse(self, stage: str, key: str, path: Path) -> Artefact | None:
        record = path / "artefact.json"
        if self.reuse == "never" or not record.is_file():
            if self.reuse == "only":
                raise SteerError(f"reuse=only, but {stage} {key} has not been built in {self.root}; run with reuse=auto.")
            return None
        try:
            seconds = float(json.loads(record.read_text())["seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise SteerError(f"{record} is damaged; remove the folder {path}, and the same command builds it anew.") from error
        log.info("%s %s: reused (%.1f s saved)", stage, key, seconds)
        return Artefact(stage, key, path, True, seconds)

    def _build(
        self,
        stage: str,
        key: str,
        path: Path,
        config: dict[str, Any],
        parents: Sequence[Artefact],
        build: Callable[[Path], None],
    ) -> Artefact:
        partial = path.with_name(f"{key}.partial")
        if self.reuse == "never":
            shutil.rmtree(partial, ignore_errors=True)
        log.info("%s %s: %s", stage, key, "resuming" if partial.is_dir() else "building")
        partial.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        build(partial)
        seconds = time.perf_counter() - start
        record = {"stage": stage, "key": key, "parents": [p.key for p in parents], "config": config, "seconds": seconds}
        (partial / "artefact.json").write_text(json.dumps(record, indent=1, default=str))
        old = path.with_name(f"{key}.old")
        if path.is_dir():  # reuse=never: the old one makes way only now, whole, by a rename
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        with (self.root / "builds.jsonl").open("a") as file:
            file.write(json.dumps({"stage": stage, "key": key, "seconds": seconds, "pid": os.getpid()}) + "\n")
        log.info("%s %s: built in %.1f s", stage, key, seconds)
        return Artefact(stage, key, path, False, seconds)


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold an artefact's lock, and say so when another process has it."""
    from filelock import FileLock, Timeout  # here: `steer runs` reads keys alone, and does not wait for it

    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        log.info("%s: another process is at it; waiting for it to finish", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
