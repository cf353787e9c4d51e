"""What docs/extending.md says of a study is enough: the page's own blocks, written to a copy of the package, are a command."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd

from .cli.conftest import SMALL

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = dict(re.findall(r"```\w+\n\s*# ([^\n]+)\n(.*?)```", PAGE, re.S))
"""First line of a block, where it goes -> the block."""


def copy_package(to):
    """Code and settings are copied, the large files of data and weights linked."""
    for file in [p for folder in ("steerpipe", "conf") for p in (ROOT / folder).rglob("*") if p.is_file()]:
        if "__pycache__" in file.parts:
            continue
        target = to / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".py", ".yaml", ".html", ".css", ".js"):
            shutil.copy(file, target)
        else:
            target.symlink_to(file)


def block(name):
    return textwrap.dedent(BLOCKS[name])


def test_a_study_of_the_page_is_a_command(tmp_path, tiny_folder):
    copy_package(tmp_path)
    new = [name for name in BLOCKS if name.startswith(("steerpipe/studies/toy/", "conf/toy/"))]
    assert len(new) == 3
    for name in new:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block(name))
    settings = tmp_path / "steerpipe" / "config" / "studies.py"
    text = settings.read_text()
    at = text.index("@dataclass(kw_only=True)\nclass Studies:")
    text = text[:at] + block("steerpipe/config/studies.py") + "\n\n" + text[at:]
    settings.write_text(text.rstrip() + "\n" + textwrap.indent(block("class Studies"), "    "))
    commands = tmp_path / "steerpipe" / "commands" / "__init__.py"
    commands.write_text(commands.read_text().rstrip().removesuffix(")") + textwrap.indent(block("COMMANDS"), "    ") + ")\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200", "NO_COLOR": "1"}

    def steer(*words):
        code = "import sys; from steerpipe.cli.app import main; main(sys.argv[1:])"
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Count the recruited features over lambda." in steer("--help")
    small = [*SMALL, f"model.path={tiny_folder}", "sae.tokens=20000"]
    folder = Path(steer("toy", *small, "toy.ratios=[0.9,0.05]", "-q").strip().splitlines()[-1])
    table = pd.read_csv(tmp_path / folder / "toy.csv")
    assert table["ratio"].tolist() == [0.9, 0.05]
    assert table["features"].iloc[1] > table["features"].iloc[0] >= 0
    assert json.loads((tmp_path / folder / "metrics.json").read_text())["toy/most"] == table["features"].max()
    page = Path(steer("report", str(folder)).strip().splitlines()[-1])
    assert "Features recruited over the lambda ratio." in (tmp_path / page).read_text()
