"""Hand a Typer command line to the real `hydra.main`, so that sweeps, launchers and run folders are Hydra's own."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, unknown
from ..folders import CONF

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ..config import Config

# Hydra itself is imported where it is used: `steer --help` shall not wait for it

BARE_NUMBER = {"lambda": ("lambda=absolute", "lambda.value"), "layer": (None, "layer.index")}
"""A group choice cannot be a number: which choice a bare number implies, and the key that takes it."""

OPTIONAL = ("experiment", "debug")


@functools.cache
def groups() -> dict[str, list[str]]:
    """Return the choices of every config group."""
    folders = (d for d in sorted(CONF.iterdir()) if d.is_dir() and d.name != "hydra")
    return {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in folders}


def expand_numbers(override: str) -> list[str]:
    """Rewrite `lambda=1e-3,1e-2` to `lambda=absolute lambda.value=1e-3,1e-2`; leave all else as typed.

    `debug=null` is no choice, which is the default: left out, since Hydra takes it for a mistake.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return [override]  # Hydra itself says what is wrong with it
    if parsed.key_or_group in OPTIONAL and override.endswith("=null"):
        return []
    if parsed.key_or_group not in BARE_NUMBER or parsed.is_delete():
        return [override]
    first: object
    if parsed.is_sweep_override():
        first = next(parsed.sweep_iterator(), None) if parsed.is_discrete_sweep() else 0.0
    else:
        first = parsed.value()
    try:
        float(str(first))
    except ValueError:
        return [override]
    choice, key = BARE_NUMBER[str(parsed.key_or_group)]
    return [*([choice] if choice else []), f"{key}={override.split('=', 1)[1]}"]


def check_groups(overrides: Sequence[str], config_dir: str | None = None) -> None:
    """Refuse a wrong choice of an optional group, which Hydra would leave out without a word, and null where one is needed.

    Raises
    ------
    SteerError
        No file of that name is in the package's group or in the user's own.
    """
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        if value == "null" and group in groups() and group not in OPTIONAL:
            raise unknown(group, value, groups()[group])
        if group not in OPTIONAL or value in ("", "null"):
            continue
        allowed = [*groups().get(group, []), *(f.stem for f in Path(config_dir or "/nowhere").glob(f"{group}/*.yaml"))]
        for choice in value.strip("[]").split(","):
            if choice.strip() not in allowed:
                raise unknown(group, choice.strip(), allowed)


def forward(task: Callable[[DictConfig], object], overrides: list[str], flags: dict[str, str | bool | None]) -> None:
    """Run a stage through `hydra.main` with the overrides and flags that Typer parsed.

    Parameters
    ----------
    task : module-level function of a composed config (launchers pickle it); its name is the stage's
    flags : Hydra's own options by name; None and False are left out
    """
    import hydra

    if sum(bool(flags.get(name)) for name in ("multirun", "cfg", "info")) > 1:
        raise UsageError("of --multirun, --cfg and --info only one can be given.")
    if flags.get("resolve") and not flags.get("cfg"):
        raise UsageError("--resolve goes with --cfg: add --cfg job.")
    folder = flags.get("config-dir")
    check_groups(overrides, folder if isinstance(folder, str) else None)
    _register()
    argv = [word for override in overrides for word in expand_numbers(override)]
    argv.append(f"hydra.job.name={task.__name__.replace('_', '-')}")
    for name, value in flags.items():
        if value not in (None, False):
            argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    saved, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        run = hydra.main(config_path=str(CONF), config_name="config", **_compat())(task)
        with _plain_errors():
            if not flags.get("multirun"):
                run()
                return
            from .sweeps import Jobs, check_jobs, composed_once

            with composed_once():
                run()
            assert Jobs.folder is not None
            check_jobs(Jobs.folder)
    finally:
        sys.argv = saved


def compose(*overrides: str, config_dir: str | None = None) -> Config:
    """Return the config of a command line without running it: for notebooks, benchmarks and tests."""
    from . import schema

    return schema.from_hydra(compose_raw(overrides, config_dir))


def compose_raw(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """Return Hydra's config of a command line, not converted yet."""
    import hydra

    check_groups(overrides, config_dir)
    _register()
    words = [word for override in overrides for word in expand_numbers(override)]
    if config_dir is not None:
        words.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    with hydra.initialize_config_dir(str(CONF), **_compat()):
        return hydra.compose("config", words)


def _register() -> None:
    from . import schema

    schema.register()


def _compat() -> dict[str, Any]:
    import hydra

    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}  # gone in Hydra 1.5


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Let Hydra raise its errors, not print them in its own several lines: `main` says them in one."""
    saved = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if saved is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = saved


def complete(incomplete: str) -> list[str]:
    """Complete group choices and config keys. bash splits words at `=`: glue them back before asking Hydra."""
    import hydra
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra.core.global_hydra import GlobalHydra

    words, key = os.environ.get("COMP_WORDS", "").split(), ""
    lead = "=" if incomplete.startswith("=") else ""
    if "=" in words[-2:]:
        key = words[-2 if words[-1] == "=" else -3] + "="
    _register()
    with hydra.initialize_config_dir(str(CONF), **_compat()):
        found = BashCompletion(GlobalHydra.instance().config_loader())._query("config", key + incomplete.lstrip("="))
    hidden = ("hydra.", "hydra/")
    return [lead + word.removeprefix(key) for word in found if not word.startswith(hidden) and "_schema" not in word]
