"""Checkpoints by hub id: fetched once, then read from the hub's own cache on disk."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from ..errors import SteerError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILES = ("config.json", "LICENSE", *WEIGHTS)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(path: str | Path) -> bool:
    """Return whether a model path names a model on the hub; a folder of that name wins."""
    return HUB_ID.fullmatch(str(path)) is not None and not Path(path).is_dir()


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder of the hub's cache holds, None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


@cache  # a stage asks several times: one look-up, and one commit, for the whole run
def fetch(repo: str, revision: str | None = None) -> Path:
    """Return the folder of a hub model's files, fetching those that the cache lacks.

    A commit that is cached costs no network call. A branch is looked up, unless HF_HUB_OFFLINE is set or the network
    is down: then its last known commit is taken from the cache. The folder is named after the commit.

    Parameters
    ----------
    repo : owner/name
    revision : commit, tag or branch; None is main

    Raises
    ------
    SteerError
        The model is neither cached nor to be had from the hub, or it has no weights that can be read.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    revision = revision or "main"
    get = partial(snapshot_download, repo, revision=revision, allow_patterns=list(FILES))
    if COMMIT.fullmatch(revision):
        with suppress(LocalEntryNotFoundError):
            found = Path(get(local_files_only=True))
            if _whole(found):
                return found
    what = f"model.path={repo} is no folder here, and"
    try:
        found = Path(get())
    except GatedRepoError as error:
        msg = f"{what} {repo} on the hub asks for a login: run hf auth login, and accept its terms there."
        raise SteerError(msg) from error
    except RepositoryNotFoundError as error:
        msg = f"{what} the hub has no model {repo}; give a folder or a hub id such as genbio-ai/AIDO.Cell-3M."
        raise SteerError(msg) from error
    except RevisionNotFoundError as error:
        msg = f"the hub's {repo} has no revision {revision}; model.revision takes a commit, tag or branch."
        raise SteerError(msg) from error
    except Exception as error:  # the hub's client raises dozens of types when there is no way through
        local = repo.split("/")[1]
        raise SteerError(
            f"{what} {repo}@{revision} is neither in the cache {constants.HF_HUB_CACHE} nor can it be fetched "
            f"({type(error).__name__}); where there is a network run: hf download {repo} --revision {revision} "
            f"--local-dir {local}, then add model.path=/that/{local} to this command."
        ) from error
    if not _whole(found):
        raise SteerError(f"{repo}@{revision} has no config.json with {' or '.join(WEIGHTS)}, neither cached nor on the hub.")
    return found


def _whole(folder: Path) -> bool:
    """Whether a snapshot is usable: another tool, or an interrupted download, may have left a part of it."""
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS)
