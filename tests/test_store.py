"""Artefacts: keys, reuse, locks, and what a crash leaves behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from steerpipe.errors import SteerError
from steerpipe.store import Store, content_key


def get(store, builds, config=None, stage="s", **options):
    def build(folder):
        builds.append(1)
        (folder / "x.txt").write_text("x")

    return store.get(stage, version=1, config=config or {"a": 1}, build=build, **options)


def test_key_depends_on_all_that_is_read_and_on_nothing_else():
    base = content_key("s", 1, {"a": 1, "b": 2}, ["p"])
    assert base == content_key("s", 1, {"b": 2, "a": 1}, ["p"])
    others = [("t", 1, {"a": 1, "b": 2}, ["p"]), ("s", 2, {"a": 1, "b": 2}, ["p"])]
    others += [("s", 1, {"a": 1, "b": 3}, ["p"]), ("s", 1, {"a": 1, "b": 2}, ["q"])]
    assert len({base, *(content_key(*other) for other in others)}) == 5


def test_built_once_and_reused_by_the_next_run(tmp_path):
    builds = []
    first = get(Store(tmp_path), builds)
    again = get(Store(tmp_path), builds)
    assert len(builds) == 1
    assert (first.reused, again.reused) == (False, True)
    assert first.path == again.path
    record = json.loads((first.path / "artefact.json").read_text())
    assert record["config"] == {"a": 1}
    assert record["stage"] == "s"


def test_parents_change_the_key(tmp_path):
    store, builds = Store(tmp_path), []
    a, b = get(store, builds, {"a": 1}, "parent"), get(store, builds, {"a": 2}, "parent")
    assert get(store, builds, parents=[a]).key != get(store, builds, parents=[b]).key


def test_a_crash_publishes_nothing_and_the_next_build_resumes(tmp_path):
    def dying(folder):
        (folder / "half").write_text("1")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        Store(tmp_path).get("s", version=1, config={}, build=dying)
    assert not [p for p in (tmp_path / "s").iterdir() if p.is_dir() and not p.name.endswith(".partial")]
    seen = []
    found = Store(tmp_path).get("s", version=1, config={}, build=lambda f: seen.append((f / "half").read_text()))
    assert seen == ["1"]
    assert not found.reused


def test_reuse_modes(tmp_path):
    builds = []
    with pytest.raises(SteerError, match="reuse=auto"):
        get(Store(tmp_path, "only"), builds)
    get(Store(tmp_path), builds)
    get(Store(tmp_path, "only"), builds)
    assert len(builds) == 1
    get(Store(tmp_path, "never"), builds)
    assert len(builds) == 2
    store = Store(tmp_path, "never")
    get(store, builds)
    get(store, builds)
    assert len(builds) == 3  # once in a run is enough


def test_jobs_that_ask_at_once_build_once(tmp_path):
    import time

    builds = []

    def build(folder):
        builds.append(1)
        time.sleep(0.2)

    def ask(_):
        return Store(tmp_path).get("s", version=1, config={}, build=build).reused

    with ThreadPoolExecutor(4) as pool:
        reused = list(pool.map(ask, range(4)))
    assert len(builds) == 1
    assert sorted(reused) == [False, True, True, True]
