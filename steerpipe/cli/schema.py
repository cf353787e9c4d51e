"""Where Hydra's world ends: one schema per config group, converted once to dataclasses."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ..config import Config, Studies
from ..errors import SteerError, unknown

KEYWORDS = {"lam": "lambda"}
"""Fields of Config whose group is a keyword of Python."""
GROUPS: dict[str, Any] = {
    KEYWORDS.get(name, name): schema for name, schema in get_type_hints(Config).items() if is_dataclass(schema)
}
PLAIN = tuple(name for name, schema in get_type_hints(Config).items() if not is_dataclass(schema))
GONE = {
    "contrast.held_out": "dataset.test_share",
    "sae.held_out": "dataset.test_share",
    "sae.split_seed": "dataset.split_seed",
}
"""Settings of earlier versions, and what took their place."""


def unknown_key(group: str, key: str, allowed: Iterable[str]) -> SteerError:
    """Return the error for a key that a group does not have."""
    if now := GONE.get(f"{group}.{key}"):
        return SteerError(f"{group}.{key} is gone: {now} sets the same test cells apart for every command; write {now}=...")
    return unknown(f"key in {group}", key, allowed)


@functools.cache
def register() -> None:
    """Make every group's dataclass known to Hydra as `<group>/_schema`, so that wrong keys and types are refused.

    And the studies' groups as the config `studies`, whose defaults list conf/config.yaml takes in.
    """
    for group, schema in GROUPS.items():
        ConfigStore.instance().store(group=group, name="_schema", node=schema)
    chosen = [{study.name: study.metadata.get("choice", "default")} for study in fields(Studies)]
    ConfigStore.instance().store(name="studies", node={"defaults": chosen})


def from_hydra(cfg: DictConfig) -> Config:
    """Convert a composed config; `lambda`, a Python keyword, becomes `lam`.

    Raises
    ------
    SteerError
        A mandatory value is missing, or a value is not allowed.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise SteerError(f"{missing[0]} is needed: add {missing[0]}=... to the command.")
    for group, schema in GROUPS.items():
        if group not in cfg:
            raise SteerError(f"the group {group} cannot be left out; choose one of its files, see: steer fit --help")
        for key in cfg[group]:  # `+sae.new=1` gets past Hydra
            if key not in schema.__dataclass_fields__:
                raise unknown_key(group, str(key), schema.__dataclass_fields__)
    parts = {group: OmegaConf.to_object(cfg[group]) for group in GROUPS}
    parts["lam"] = parts.pop("lambda")
    return Config(**parts, **{name: cfg[name] for name in PLAIN})  # type: ignore[arg-type]
