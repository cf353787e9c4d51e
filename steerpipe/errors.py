"""The one error a user sees: a single line that says what is wrong, what is allowed and what to run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SteerError(Exception):
    """A mistake that the user can repair: `steer` prints it as one line, without a traceback, and exits with `code`."""

    code = 1


class UsageError(SteerError):
    """A command line that cannot be read."""

    code = 2


def unknown(what: str, name: object, allowed: Iterable[object], *, repair: str = "") -> SteerError:
    """Return the error for a name that is not among the allowed ones, with the nearest as a hint."""
    options = [str(option) for option in allowed]
    near = difflib.get_close_matches(str(name), options, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    shown = ", ".join(options[:30]) + (f", ... ({len(options)} in all)" if len(options) > 30 else "")
    return SteerError(f"unknown {what} '{name}'{hint} Allowed: {shown}.{' ' if repair else ''}{repair}")
