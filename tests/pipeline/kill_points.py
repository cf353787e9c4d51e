"""Run extract, train-sae and fit, and end the process with SIGKILL at one file operation: a program for test_kill.

    python -m tests.pipeline.kill_points WORK CONFIG.json STAGE POINTS

forks a child for each kill point (imports are paid once), kills it before its n-th operation on a file of the store,
looks at what is left, resumes in a second child and compares bytes. Prints a line of JSON for each point.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import pandas as pd
import torch

from steerpipe.cli.hydra import compose
from steerpipe.commands import extract, fit, train_sae
from steerpipe.data import datasets
from steerpipe.pipeline.pipeline import Pipeline
from steerpipe.plot.dictionaries import training_curve
from steerpipe.run import Run, save_figure
from steerpipe.sae import baselines
from steerpipe.store import Store

STAGES = {"extract": extract, "train-sae": train_sae, "fit": fit}
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def digest(folder):
    """Digest of every file of an artefact but for the seconds that it took."""
    found = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = file.read_bytes()
        if file.name == "artefact.json":
            data = json.dumps({k: v for k, v in json.loads(data).items() if k != "seconds"}).encode()
        found[str(file.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def artefacts(store):
    """Every folder of the store that a later run would reuse."""
    return {str(p.parent.relative_to(store)): digest(p.parent) for p in store.glob("*/*/artefact.json") if not p.parent.suffix}


def work(outputs, config, stage, kill_at=None):
    """Run a stage in a child; return (exit status, file operations counted)."""
    counter = outputs.with_suffix(".count")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            seen = 0
            inside = str(outputs / ".store")

            def watch(event, args):
                nonlocal seen
                if event not in WATCHED or not args or inside not in str(args[0]):
                    return
                if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wax+")):
                    return
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(watch)
            plain = config | {"outputs": str(outputs)}
            settings = compose(*[f"{key}={value}" for key, value in plain.items()])
            with Run(outputs / "run", stage, {}) as run:
                STAGES[stage].main(Pipeline(settings, Store(outputs / ".store")), run)
            counter.write_text(str(seen))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1], int(counter.read_text()) if counter.is_file() else 0


def main(folder, config, stage, points):
    """Make the reference, then kill, look, resume and compare at `points` places spread over the stage's operations."""
    torch.set_num_threads(1)
    datasets.pbmc68k_reduced()  # its imports, once for all children; Adam's, those of figures and of the baselines as well
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    curve = pd.DataFrame({"tokens": [1, 2], "fvu": 0.5, "l0": 1.0, "dead": 0})
    folder.mkdir(parents=True)
    save_figure(folder, "warm", training_curve(curve, "warm"), curve)
    baselines.ICA_STEPS = 5  # which components come out is nothing to a kill
    before = folder / "before"  # what earlier stages made
    needed = {"extract": None, "train-sae": "extract", "fit": "train-sae"}[stage]
    before.mkdir(parents=True)
    if needed is not None:
        assert work(before, config, needed)[0] == 0
    reference = folder / "reference"
    shutil.copytree(before, reference)
    status, operations = work(reference, config, stage)
    assert status == 0
    wanted = artefacts(reference / ".store")
    assert wanted
    n = min(points, operations)
    for at in sorted({1 + round(i * (operations - 1) / max(1, n - 1)) for i in range(n)}):
        outputs = folder / f"killed_{at}"
        shutil.copytree(before, outputs)
        status, _ = work(outputs, config, stage, kill_at=at)
        left = artefacts(outputs / ".store")
        resumed, _ = work(outputs, config, stage)
        after = artefacts(outputs / ".store")
        row = {
            "stage": stage,
            "at": at,
            "of": operations,
            "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            "half": [name for name, files in left.items() if files != wanted.get(name)],
            "resumed": resumed == 0,
            "same": after == wanted,
            "litter": [str(p) for p in (outputs / ".store").rglob("*") if p.suffix in (".partial", ".tmp", ".old")],
        }
        print(json.dumps(row), flush=True)
        shutil.rmtree(outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3], int(sys.argv[4]))
