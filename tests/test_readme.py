"""The README's commands exist, its files exist, and the page says what it must."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from steerpipe.cli.app import app
from steerpipe.cli.hydra import compose
from steerpipe.cli.tasks import TASKS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PAGES = [TEXT, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
LINES = [line for page in PAGES for line in page.replace("\\\n", " ").splitlines()]
COMMANDS = [line.split("#")[0].strip() for line in LINES if line.startswith("    steer ")]
STAGES = {*TASKS, "validate"} - {"feature", "features"}
NAMES = {command.name for command in app.registered_commands}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_steer_command_is_valid(line):
    words = shlex.split(line)[1:]
    assert words[0] in NAMES
    if words[0] not in STAGES or "--config-dir" in words:
        return  # names and filters, which tests/cli/test_runs.py runs; the page's own groups, which tests/test_docs.py writes
    overrides = [w for w in words[1:] if "=" in w and not w.startswith("hydra")]
    if "-m" in words:
        overrides = [w.split("=")[0] + "=" + w.split("=", 1)[1].split(",")[-1].replace("range(16)", "15") for w in overrides]
    compose(*overrides)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", TEXT)) <= targets
    assert "    make demo" in TEXT
    assert "    make test" in TEXT


def test_linked_files_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).is_file(), (page.name, link)


def test_the_page_says_whose_model_it_is():
    assert "not AIDO.Cell" in TEXT
    assert "non-commercial" in TEXT
    assert "@" not in re.sub(r"`[^`]*`", "", TEXT)
