"""`make bench-sae`: our SAE trainer beside sparsify, dictionary-learning and SAELens on one machine, in one process.

Speed by interleaved steps (ratios paired within a round), CPU time on one thread, memory in a process of its own, FVU and dead
features on held-out tokens at equal tokens over seeds, and recovery of a planted dictionary. Every figure is kept in
FOLDER/results.json as it comes, so that a stopped run goes on where it was; ours are measured anew when steerpipe/sae changes,
what was trained on mini's tokens when those do.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steerpipe.sae
from steerpipe.config import SaeConfig
from steerpipe.digest import file_digest

from .peers import DISTRIBUTIONS, TRAINERS, TUNED, Job, fingerprint, quiet, score, shuffled
from .planted import recovery
from .settings import SETTINGS, Setting, load
from .speed import compare, memory
from .table import show

SPEED_BATCH, QUALITY_BATCH = 4096, 2048
"""The first as the published figures have it; the second our default, for more steps at equal tokens."""


class Results:
    """Figures by key, on disk after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, key: str, measure: Any) -> Any:
        """Return the figure, measuring it when it is missing."""
        if key not in self.found:
            start = time.perf_counter()
            value = measure()
            self.found[key] = value
            self.path.with_suffix(".tmp").write_text(json.dumps(self.found, indent=1))
            self.path.with_suffix(".tmp").replace(self.path)
            print(f"  {time.perf_counter() - start:6.1f} s  {key}", file=sys.stderr, flush=True)
        return self.found[key]


def version(name: str) -> str:
    """Return what a stored figure of a trainer depends on: its release, or our sources and defaults."""
    name = name.split(" (")[0]
    if name in DISTRIBUTIONS:
        return importlib.metadata.version(DISTRIBUTIONS[name])
    return f"{fingerprint(Path(steerpipe.sae.__path__[0]))}-{zlib.crc32(repr(SaeConfig()).encode()):08x}"


def stamped(setting: Setting, folder: Path) -> str:
    """Return a setting's name for the keys of stored figures, with the digest of its tokens where those are a file."""
    return f"{setting.name}@{file_digest(folder / 'real.npz')[:8]}" if setting.n_true is None else setting.name


def quality(name: str, setting: Setting, folder: Path, tokens: int, seed: int, rate: float = 1.0) -> dict[str, float]:
    """Train, at a multiple of the default rate, and score on the held-out tokens; with a planted truth, its recovery too."""
    data = load(setting, folder)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(setting.width, setting.features, setting.k, QUALITY_BATCH, tokens // QUALITY_BATCH, seed, Path(scratch), rate)
        trained = TUNED[name](job, shuffled(data.train, job.batch, seed))
        torch.set_float32_matmul_precision("highest")
        found = score(trained, data.held)
        return found | (recovery(data.truth, trained.rows) if data.truth is not None else {})


def in_a_process(folder: Path, name: str, setting: str) -> float:
    """Return the added memory (MB), from a worker."""
    words = [sys.executable, "-m", "benchmarks.sae", "--folder", str(folder), "--worker", name, setting]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    return float(subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout.split()[-1])


def work(folder: Path, name: str, setting: Setting) -> None:
    """Print the added memory of a few steps."""
    torch.set_num_threads(2)
    tokens = load(setting, folder).train[: 8 * SPEED_BATCH]
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(setting.width, setting.features, setting.k, SPEED_BATCH, 6, 0, Path(scratch))
        print(memory(name, job, tokens, 6))


def gemm_rates(width: int = 640, features: int = 5120, rows: int = 2048) -> dict[str, float]:
    """Return one-thread GFLOP/s of the encoder's product in float32 and bfloat16: what there is to win by the latter here."""
    torch.set_num_threads(1)
    x, W = torch.randn(rows, width), torch.randn(features, width).T
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b, times = x.to(dtype), W.to(dtype), []
        for _ in range(5):
            start = time.thread_time()
            a @ b
            times.append(time.thread_time() - start)
        rates[str(dtype).removeprefix("torch.")] = 2e-9 * rows * width * features / min(times)
    return rates


def main(options: argparse.Namespace) -> None:
    """Measure what is asked for, print the tables and the JSON object."""
    quiet()
    options.folder.mkdir(parents=True, exist_ok=True)
    results, versions = Results(options.folder / "results.json"), {name: version(name) for name in TRAINERS}
    everything = "/".join(versions.values())
    deadline = time.monotonic() + 60 * options.minutes
    figures: dict[str, Any] = {"versions": versions, "capability": torch.backends.cpu.get_cpu_capability(), "missing": 0}
    figures["gemm_gflops_one_thread"] = results.get(f"gemm|{everything}", gemm_rates)
    for setting in SETTINGS.values():
        if (options.planted and setting.n_true is None) or (options.settings and setting.name not in options.settings):
            continue
        rows: dict[str, Any] = {name: {} for name in TRAINERS}
        if setting.timed and not options.planted:
            for threads in (2, 1):
                key = f"speed|{setting.name}|{threads} threads|{options.rounds} rounds|{everything}"
                for name, row in results.get(key, lambda s=setting, t=threads: timed(s, options, t)).items():
                    wanted = ("tokens_per_second", "speed_ratio") if threads == 2 else ("cpu_us_per_token", "cpu_ratio")
                    rows[name] |= {what: row[what] for what in wanted}
            for name in TRAINERS:
                key = f"memory|{setting.name}|{name}|{versions[name]}"
                rows[name]["added_mb"] = results.get(key, lambda s=setting, n=name: in_a_process(options.folder, n, s.name))
        tokens = options.tokens or (setting.tokens // 5 if options.quick else setting.tokens)
        where = stamped(setting, options.folder)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in TRAINERS}
        torch.set_num_threads(2)
        for seed in range(options.seeds if setting.tokens else 0):
            for name in TRAINERS:
                key = f"quality|{where}|{name}|{tokens} tokens|seed {seed}|{versions[name]}"
                if key not in results.found and time.monotonic() > deadline:
                    figures["missing"] += 1
                    continue
                run = lambda s=setting, n=name, t=tokens, i=seed: quality(n, s, options.folder, t, i)  # noqa: E731
                runs[name].append(results.get(key, run))
        for name, found in runs.items():
            for what in found[0] if found else ():
                values = [run[what] for run in found]
                sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
                rows[name][what] = {"mean": float(np.mean(values)), "sd": sd, "n": len(values)}
            pairs = [ours["fvu"] / theirs["fvu"] for ours, theirs in zip(found, runs["sparsify"], strict=False)]
            if pairs:
                rows[name]["fvu_ratio"] = float(np.mean(pairs))
        figures[setting.name] = {"setting": asdict(setting), "tokens": tokens, "trainers": rows}
        if options.rates:
            figures[setting.name]["rates"] = tuned(setting, where, options, tokens, results)
    show(figures, SPEED_BATCH, QUALITY_BATCH)
    print(json.dumps(figures))


def tuned(setting: Setting, where: str, options: argparse.Namespace, tokens: int, results: Results) -> list[Any]:
    """Return and print FVU / dead of every trainer at multiples of its default rate, seed 0; `where`: the setting in keys."""
    rows = []
    for name in TUNED:
        found = []
        for rate in options.rates:
            key = f"rate|{where}|{name}|{tokens} tokens|x{rate:g}|{version(name)}"
            run = lambda n=name, r=rate: quality(n, setting, options.folder, tokens, 0, r)  # noqa: E731
            found.append({"rate": rate, **results.get(key, run)})
        rows.append({"trainer": name, "found": found})
        print(f"{setting.name}: {name}: " + ", ".join(f"x{f['rate']:g} {f['fvu']:.4f} / {f['dead']:.2f}" for f in found))
    return rows


def timed(setting: Setting, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Interleave the trainers' steps on a setting's tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(setting.width, setting.features, setting.k, SPEED_BATCH, 0, 0, Path(scratch))
        data = load(setting, options.folder)
        # ours takes the first 16 batches to fit its normalisation
        return compare(job, data.train, TRAINERS, threads=threads, rounds=options.rounds, steps=setting.round_steps, warm_up=20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench-sae"), help="has real.npz; gets results.json")
    parser.add_argument("--quick", action="store_true", help="2 seeds, a fifth of the tokens, 3 rounds")
    parser.add_argument("--planted", action="store_true", help="the planted dictionary alone")
    parser.add_argument("--settings", nargs="*", help=f"of {', '.join(SETTINGS)}; all")
    parser.add_argument("--seeds", type=int, help="5")
    parser.add_argument("--rounds", type=int, help="of interleaved steps; 9")
    parser.add_argument("--tokens", type=int, help="to train on, instead of each setting's own")
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="start no further training after so many; run again to go on"
    )
    parser.add_argument("--rates", nargs="*", type=float, help="multiples of every trainer's default rate to try, seed 0")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.seeds = chosen.seeds or (2 if chosen.quick else 5)
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 9)
    if chosen.worker:
        quiet()
        work(chosen.folder, chosen.worker[0], SETTINGS[chosen.worker[1]])
    else:
        main(chosen)
