"""`steer rerun`, `clean` and `validate`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SteerError, UsageError
from ..past import find_runs, resolve_run
from ..run import flatten
from ..store import pins
from . import tasks
from .failure import explain
from .hydra import complete, compose, compose_raw, forward
from .runs import JSON, NAME, OUTPUTS, _json


def rerun(name: NAME = "last", outputs: OUTPUTS = Path("outputs")) -> None:
    """Run a past run again, with every setting as it was; what is in the store is reused."""
    past = resolve_run(name, outputs)
    manifest = past.manifest
    task = tasks.TASKS.get(manifest.get("stage", ""))
    if task is None or "overrides" not in manifest:
        raise SteerError(f"{past.name} does not say how it was run; type its command again: {manifest.get('command', '?')}")
    if Path(manifest.get("folder", "")).is_dir():
        os.chdir(manifest["folder"])  # relative paths mean what they meant
    forward(task, [*manifest["overrides"], *pinned(manifest)], {"config-dir": manifest.get("config_dir")})


def pinned(manifest: dict[str, Any]) -> list[str]:
    """Return the overrides that bring today's defaults to a past run's settings.

    Raises
    ------
    SteerError
        The run has settings that this version does not know.
    """
    from omegaconf import OmegaConf

    now: Any = OmegaConf.to_container(compose_raw(manifest["overrides"], manifest.get("config_dir")), resolve=True)
    today, then = flatten(now), flatten(manifest["config"])
    lost = [key for key in then if key not in today and not key.startswith("dataset.groups.")]
    if lost:
        version = manifest.get("versions", {}).get("steerpipe")
        msg = f"the run is of steerpipe {version}, whose {', '.join(lost[:3])} this version does not have"
        raise SteerError(f"{msg}; run it with steerpipe=={version}, or anew: {manifest['command']}")
    return [f"{key}={_quoted(value)}" for key, value in then.items() if key in today and today[key] != value]


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def clean(
    unused: Annotated[bool, typer.Option("--unused", help="Artefacts that no run folder stands on.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Unfinished artefacts too: what would resume starts anew.")
    ] = False,
    notebooks: Annotated[bool, typer.Option("--notebooks", help="What only calls from notebooks stand on too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    outputs: OUTPUTS = Path("outputs"),
    as_json: JSON = False,
) -> None:
    """Say what of the store no run needs, ask, and remove it."""
    if not unused:
        raise UsageError("say what to clean: steer clean --unused")
    found = removable(outputs, partial=partial, notebooks=notebooks)
    total = sum(size for _, size in found)
    if as_json:
        _json({"bytes": total, "folders": [{"path": str(path), "bytes": size} for path, size in found]})
    else:
        for path, size in found:
            print(f"{size / 1e6:10.1f} MB  {path}")
        print(f"{len(found)} folders, {total / 1e6:.1f} MB")
    if not found or not (yes or (not as_json and typer.confirm("Remove them?"))):
        return
    from filelock import FileLock, Timeout

    for path, _ in found:
        name = path.name.partition(".")[0]
        try:
            with FileLock(path.with_name(f"{name}.lock"), timeout=0):
                aside = path.with_name(f"{name}.old")
                path.rename(aside)  # gone at once: a killed removal leaves nothing that looks whole
                shutil.rmtree(aside)
        except Timeout:
            print(f"kept {path}: a process is at it")


def removable(outputs: Path, *, partial: bool = False, notebooks: bool = False) -> list[tuple[Path, int]]:
    """Return (folder, bytes) of the artefacts that neither a run folder nor a notebook's call stands on, nor one that is kept.

    Parameters
    ----------
    partial : unfinished ones too
    notebooks : what only notebooks' calls stand on too
    """
    store = outputs / ".store"
    parents: dict[str, list[str]] = {}
    folders = sorted(path for path in store.glob("*/*") if path.is_dir())
    for path in folders:
        record = path / "artefact.json"
        if record.is_file() and not path.suffix:
            parents[path.name] = json.loads(record.read_text()).get("parents", [])
    used: set[str] = set()
    todo = [artefact["key"] for run in find_runs(outputs) for artefact in run.manifest.get("artefacts", [])]
    todo += [] if notebooks else pins(store)
    while todo:
        key = todo.pop()
        if key not in used:
            used.add(key)
            todo += parents.get(key, [])
    kinds = {"", ".old", *([".partial"] if partial else [])}
    gone = [path for path in folders if path.suffix in kinds and (path.suffix or path.name not in used)]
    return [(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())) for path in gone]


def validate(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hydra overrides.", autocompletion=complete)
    ] = None,
    config_dir: Annotated[Path | None, typer.Option("--config-dir", help="Your own config folder.")] = None,
    as_json: JSON = False,
) -> None:
    """Say everything that is wrong with a command's settings, data and model at once; nothing is run."""
    found = config_problems(overrides or [], None if config_dir is None else str(config_dir))
    if not found:
        from ..commands.validate import problems

        found = problems(compose(*(overrides or []), config_dir=None if config_dir is None else str(config_dir)))
    if as_json:
        _json(found)
    for number, line in enumerate(found, 1):
        if not as_json:
            print(f"{number}. {line}")
    if found:
        raise SteerError(f"{len(found)} {'thing is' if len(found) == 1 else 'things are'} wrong; nothing was run.")
    if not as_json:
        print("the settings, the data and the model fit together; nothing was run.")


def config_problems(overrides: list[str], config_dir: str | None = None) -> list[str]:
    """Return every refusal of a command line: words that do not compose, one by one, then values group by group."""
    from omegaconf import OmegaConf

    from .schema import GROUPS, from_hydra

    found, good = [], list[str]()
    for word in overrides:
        try:
            compose_raw([*good, word], config_dir)
            good.append(word)
        except Exception as error:
            found.append(_line(error))
    composed = compose_raw(good, config_dir)
    missing = sorted(OmegaConf.missing_keys(composed))
    found += [f"{key} is needed: add {key}=... to the command." for key in missing]
    for group, schema in GROUPS.items():
        if any(key.startswith(f"{group}.") for key in missing):
            continue
        values = {key: composed[group][key] for key in schema.__dataclass_fields__}
        values = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in values.items()}
        found += _refusals(schema, values)
    if not found:
        try:
            from_hydra(composed)
        except Exception as error:
            found.append(_line(error))
    return list(dict.fromkeys(found))


def _refusals(schema: Any, values: dict[str, Any]) -> list[str]:
    """The refusals of a group: of the whole, and of each value beside defaults, since a dataclass stops at its first."""
    found = []
    try:
        schema(**values)
    except SteerError as error:
        found.append(str(error))
        for field in fields(schema):
            try:
                replace(schema(), **{field.name: values[field.name]})
            except SteerError as refusal:
                found.append(str(refusal))
    return found


def _line(error: Exception) -> str:
    line = explain(error)
    if line is None:
        raise error
    return str(line)
