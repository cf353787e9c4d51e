"""`make bench-run`: what a person waits for, beside the commit before: a run, ten lambdas over one, light commands, memory.

Both trees run in this environment, in turn, each command a process of its own on one thread. What is compared is CPU
seconds, which a busy machine disturbs less than a clock; whether the runs wrote the same tables is said beside them. Words
go to `steer run`: ARGS="dataset=pbmc3k", ARGS="--against HEAD~3 debug=small". The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STEER = "import sys; from steerpipe.cli.app import main; sys.argv[0] = 'steer'; main()"
LIGHT = {"help": ("--help",), "runs": ("runs",), "show": ("show", "last")}
LAMBDAS = "0.5,0.4,0.3,0.2,0.15,0.1,0.08,0.06,0.04,0.02"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class Cost(NamedTuple):
    """CPU seconds (user and system), wall seconds and peak resident memory (MB, mapped files included) of a process."""

    cpu: float
    wall: float
    peak: float


def steer(tree: Path, words: Sequence[str], folder: Path) -> Cost:
    """Run a command of a tree's code in a folder, and return what it cost.

    Raises
    ------
    RuntimeError
        The command failed; with what it said.
    """
    # bytecode is kept, as it is for a user: without it every command compiles its imports anew
    env = os.environ | ONE_THREAD | {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-c", STEER, *words], cwd=folder, env=env, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{tree}: steer {' '.join(words)} exited with {process.returncode}:\n{said.read()}")
    return Cost(used.ru_utime + used.ru_stime, os.times().elapsed - before.elapsed, used.ru_maxrss / 1024)


def stages(folder: Path) -> dict[str, float]:
    """Return the seconds of each kind of artefact that was built below a folder."""
    found: dict[str, float] = {}
    for line in (folder / "outputs" / ".store" / "builds.jsonl").read_text().splitlines():
        record = json.loads(line)
        found[record["stage"]] = round(found.get(record["stage"], 0.0) + record["seconds"], 1)
    return found


def tables(folder: Path) -> dict[str, str]:
    """Return the digest of every table that the run below a folder wrote."""
    (run,) = (file.parent for file in folder.glob("outputs/run/*/*/manifest.json"))
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(run.rglob("*.csv"))}


def compare(trees: dict[str, Path], words: Sequence[str], folder: Path, *, repeats: int) -> dict[str, Any]:
    """Return the whole run of both trees, the sweep and the light commands, as one object."""
    result: dict[str, Any] = {"words": list(words)}
    places = {name: folder / name for name in trees}
    for name, tree in trees.items():
        places[name].mkdir()
        steer(tree, ["--help"], places[name])  # its bytecode
        run = steer(tree, ["run", *words], places[name])
        cost = {key: round(value, 1) for key, value in run._asdict().items()}
        result[f"{name}/run"] = cost | {"stages": stages(places[name])}
    first, second = (tables(place) for place in places.values())
    result["tables_that_differ"] = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    result["run_ratio"] = round(result["now/run"]["cpu"] / result["before/run"]["cpu"], 3)
    seconds: dict[str, list[float]] = {}
    commands = {key: list(some) for key, some in LIGHT.items()}
    commands["one lambda"] = ["fit", *words, "lambda=ratio", "lambda.value=0.3"]
    commands["ten lambdas"] = ["fit", "-m", *words, "lambda=ratio", f"lambda.value={LAMBDAS}"]
    for _ in range(repeats):  # in turn, so that a busy minute is shared; the fits are in the store after the first round
        for key, some in commands.items():
            for name, tree in trees.items():
                seconds.setdefault(f"{name}/{key}", []).append(steer(tree, some, places[name]).cpu)
    result |= {key: round(min(some), 3) for key, some in seconds.items()}
    for name in trees:
        result[f"{name}/ten_over_one"] = round(result[f"{name}/ten lambdas"] / result[f"{name}/one lambda"], 2)
    return result


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default="HEAD~1", help="the commit to compare with")
    parser.add_argument("--repeats", type=int, default=3, help="of the short commands; the least counts")
    options, words = parser.parse_known_args()
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        subprocess.run([*git, "add", "--detach", "--quiet", str(folder / "tree"), options.against], check=True)
        try:
            trees = {"before": folder / "tree", "now": ROOT}
            result = compare(trees, words, folder, repeats=options.repeats)
        finally:
            subprocess.run([*git, "remove", "--force", str(folder / "tree")], check=True)
    print(json.dumps({"against": options.against, **result}))


if __name__ == "__main__":
    main()
