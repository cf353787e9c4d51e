"""What a setting may be: checks that end with one clear line."""

from __future__ import annotations

from ..errors import SteerError, unknown

NEEDED = "???"
"""A value that the command line must give (OmegaConf's mark of a missing one)."""


def one_of(what: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise unknown(what, value, allowed)


def positive(group: str, config: object, *names: str) -> None:
    """Refuse numbers that are not greater than 0; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise SteerError(f"{group}.{name}={value} must be greater than 0.")


def share(group: str, config: object, *names: str) -> None:
    """Refuse numbers that do not lie strictly between 0 and 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < 1:
            raise SteerError(f"{group}.{name}={value} must lie strictly between 0 and 1.")


def label_words(name: str, value: object) -> str | list[str] | None:
    """Return a label, or a list of labels, as text: whatever scalar the command line made of a word is one; None passes.

    Raises
    ------
    SteerError
        A mapping, an empty list, or a list of anything but scalars.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str | bool | int | float) for one in value):
        return [str(one) for one in value]
    raise SteerError(f"{name}={value} is neither a label nor a list of labels; write {name}=A, or '{name}=[A,B]'.")
