"""Every expected failure as one line: Hydra's, OmegaConf's, the command line's and the disk's."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Iterator

from ..errors import SteerError, UsageError, unknown

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR}
SPACE = re.compile(r"no space left|PytorchStreamWriter failed|inline_container", re.I)
"""How torch's and safetensors' own writers say that a disk is full."""
RESUMES = "the same command then resumes."


class Stopped(BaseException):
    """An error on its way out of a stage, past Hydra's handlers, which would add lines of their own."""

    def __init__(self, error: SteerError) -> None:
        super().__init__(str(error))
        self.error = error


def explain(error: BaseException) -> SteerError | None:
    """Return the one line for an error that a user can repair; None for one that is a defect of ours."""
    if isinstance(error, Stopped):
        return error.error
    if isinstance(error, SteerError):
        return error
    if hasattr(error, "format_message"):  # click's, also where typer brings its own copy of it
        name = getattr(getattr(error, "ctx", None), "command_path", "steer")
        return UsageError(f"{_sentence(error.format_message())} See: {name} --help")
    module = type(error).__module__.partition(".")[0]
    if module in ("hydra", "omegaconf"):
        return _composition(error)
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, OSError) and (found := _disk(one)):
            return found
    if any(SPACE.search(str(one)) for one in chain):
        return _full("")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return SteerError(f"out of memory; lower model.batch_size or sae.batch_size, or add device=cpu: {RESUMES}")
    return None


def resume_line(words: list[str]) -> str:
    """Return what is said after Ctrl-C."""
    return f"stopped; finished pieces are kept. To resume: {shlex.join(['steer', *words])}"


def say(line: str) -> None:
    """Print one line to standard error."""
    print(f"steer: {line}", file=sys.stderr, flush=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _full(where: object) -> SteerError:
    place = f" of {where}" if where else ""
    return SteerError(
        f"no space left on the disk{place}; free some (steer clean --unused), or add outputs=/other/disk: {RESUMES}"
    )


def _disk(error: OSError) -> SteerError | None:
    where = error.filename or ""
    if error.errno in FULL:
        return _full(where)
    if error.errno in CLOSED:
        return SteerError(f"cannot write to {where} ({error.strerror}); add outputs=/a/folder/of/yours.")
    if error.errno in IN_THE_WAY:
        return SteerError(f"{where} is a file where a folder is needed ({error.strerror}); move it, or add outputs=another.")
    return None


def _composition(error: BaseException) -> SteerError:
    """The line for what Hydra or OmegaConf refuses while a config is put together."""
    from .hydra import groups
    from .schema import GROUPS, unknown_key

    text = " ".join([str(error), str(error.__cause__ or "")])
    missing = getattr(error, "missing_cfg_file", None)
    if missing is not None and "/" in str(missing):
        group, _, choice = str(missing).removesuffix(".yaml").rpartition("/")
        options = [o for o in getattr(error, "options", None) or groups().get(group, []) if o != "_schema"]
        return unknown(group, choice, options)
    if hit := re.search(r"Key '([^']*)' (?:not in '\w+'|is not in struct)\s+full_key: (\S+)", text):
        key, full = hit[1], hit[2]
        group = full.rpartition(".")[0]
        if not group:
            return unknown("key or group", key, [*sorted(groups()), *_plain()])
        schema = GROUPS.get(group)
        fields = list(getattr(schema, "__dataclass_fields__", {})) or sorted(groups())
        return unknown_key(group, key, fields)
    if hit := re.search(r"Could not override '([^']*)'\.?\s*(.*)", text, re.S):
        return unknown("key or group", hit[1], [*sorted(groups()), *_plain()])
    if hit := re.search(r"Ambiguous value for argument '([^']*)'", text):
        word = hit[1]
        key, _, value = word.partition("=")
        return UsageError(
            f"'{word}' has several values: add -m to run one job for each, or write '{key}=[{value}]' for a list."
        )
    if hit := re.search(r"Value '?(.*?)'? of type '\w+' could not be converted to (\w+)\s+full_key: (\S+)", text, re.S):
        full = re.search(r"Error merging override (\S+?)=", text)
        return SteerError(f"{full[1] if full else hit[3]}={hit[1]} is not {_kind(hit[2])}; see: steer fit --cfg job.")
    if hit := re.search(r"Error merging override (\S+?)=(.*?) Value .* is not a valid bool", text, re.S):
        return SteerError(f"{hit[1]}={hit[2]} is not true or false; see: steer fit --cfg job.")
    if "is not a ListConfig" in text and (hit := re.search(r"Error merging override (\S+?)=(\S+)", text)):
        return SteerError(f"{hit[1]}={hit[2]} is not a list; write '{hit[1]}=[{hit[2]}]'.")
    if type(error).__name__ == "OverrideParseException":
        word = getattr(error, "override", "")
        wanted = "an override is KEY=VALUE" if "=" not in word else "its value cannot be read; quote it: 'key=\"value\"'"
        return UsageError(f"cannot read '{word}': {wanted}.")
    if hit := re.search(r"Interpolation key '([^']*)' not found", text):
        return SteerError(f"the config refers to {hit[1]}, which does not exist; see: steer fit --cfg job.")
    if "Additional config directory" in text:
        return SteerError(f"{text.strip()}; --config-dir takes a folder with a sub-folder per group.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return SteerError("; ".join(lines[:3]) + "; see: steer fit --cfg job.")


def _sentence(text: object) -> str:
    line = str(text).strip()
    return line if line.endswith((".", "?", "!")) else f"{line}."


def _plain() -> tuple[str, ...]:
    from .schema import PLAIN

    return PLAIN


def _kind(name: str) -> str:
    return {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(name, f"a {name.lower()}")
