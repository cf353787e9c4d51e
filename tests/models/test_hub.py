"""Models by hub id: fetched from a hub on this machine, then read from the cache with no network at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from steerpipe.models.checkpoints import PACKAGED, load_model, model_digest, model_folder, provenance
from steerpipe.models.hub import commit_of, is_hub_id

from ..fake_hub import COMMIT, fake_hub

REPO = "someone/tiny-cell"
DEAD = "http://127.0.0.1:9"  # nothing listens there
FETCH = """
import sys
from steerpipe.errors import SteerError
from steerpipe.models.hub import fetch
try:
    folders = {fetch(sys.argv[1], sys.argv[2]) for _ in range(3)}
    print(*folders)
except SteerError as error:
    print("ERROR", error)
"""


def fetched(home, endpoint, revision="main", repo=REPO, **env):
    """What fetch says, asked three times in a process of its own: the hub's client reads its settings on import."""
    env = os.environ | {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        **env,
    }
    done = subprocess.run([sys.executable, "-c", FETCH, repo, revision], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def shelf(tiny_folder, tmp_path):
    """The tiny checkpoint with a licence and a file that nobody needs."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "LICENSE").write_text("non-commercial")
    (folder / "training_log.csv").write_text("big")
    return folder


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_fetched_once_and_from_the_cache_without_network(shelf, tmp_path, revision):
    home = tmp_path / "home"
    with fake_hub(REPO, shelf) as (endpoint, asked):
        folder = fetched(home, endpoint, revision)
        first = list(asked)
        assert first.count(f"/api/models/{REPO}/revision/main") == (revision == "main")  # three calls of fetch, one look-up
        again = fetched(home, endpoint, revision)
        later = asked[len(first) :]
    path = model_folder(folder)
    assert commit_of(path) == COMMIT
    assert {f.name for f in path.iterdir()} == {"config.json", "LICENSE", "model.safetensors"}
    assert again == folder
    if revision == COMMIT:
        assert not later  # not one request
    else:
        assert [path for path in later if REPO in path] == [f"/api/models/{REPO}/revision/main"]
    assert fetched(home, DEAD, revision) == folder
    assert fetched(home, DEAD, revision, HF_HUB_OFFLINE="1") == folder


def test_a_commit_of_which_a_part_is_cached_is_completed(shelf, tmp_path):
    home = tmp_path / "home"
    part = home / "hub" / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT
    part.mkdir(parents=True)
    (part / "config.json").write_bytes((shelf / "config.json").read_bytes())
    message = fetched(home, DEAD, COMMIT, HF_HUB_OFFLINE="1")
    assert message.startswith("ERROR")
    assert "\n" not in message
    with fake_hub(REPO, shelf) as (endpoint, _):
        assert fetched(home, endpoint, COMMIT) == str(part)
    assert (part / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("repo", "revision", "words"),
    [
        (REPO, "f" * 40, ["has no revision ffff", "model.revision"]),
        (REPO, "nightly", ["has no revision nightly", "model.revision"]),
        ("someone/else", "main", ["is no folder here", "no model someone/else", "genbio-ai/AIDO.Cell-3M"]),
    ],
)
def test_what_the_hub_does_not_have(shelf, tmp_path, repo, revision, words):
    with fake_hub(REPO, shelf) as (endpoint, _):
        message = fetched(tmp_path / "home", endpoint, revision, repo)
    assert message.startswith("ERROR")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["no network", "offline"])
def test_without_network_or_cache_one_line_says_what_to_do(tmp_path, env):
    message = fetched(tmp_path / "home", DEAD, "main", "genbio-ai/AIDO.Cell-100M", **env)
    assert message.startswith("ERROR")
    assert "\n" not in message
    for word in (
        "is no folder here",
        str(tmp_path / "home"),
        "hf download genbio-ai/AIDO.Cell-100M --revision main",
        "model.path=",
    ):
        assert word in message


def test_what_is_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("genbio-ai/AIDO.Cell-3M")
    for path in ("mini", "/a/b", "./b", "../b", "~/b", "a/b/c", "a b/c", tmp_path):
        assert not is_hub_id(path), path
    (tmp_path / "genbio-ai" / "AIDO.Cell-3M").mkdir(parents=True)
    assert not is_hub_id("genbio-ai/AIDO.Cell-3M")  # a folder wins


def test_a_folder_wins_over_a_hub_id(tiny_folder, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "tiny").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    assert load_model("someone/tiny", "main").arch == tiny_model.arch
    assert model_digest("someone/tiny", "main") == model_digest(tiny_folder)
    assert provenance("someone/tiny", "main")["revision"] is None  # the hub's, and this is none of it
    assert model_folder("mini") == PACKAGED / "mini"
