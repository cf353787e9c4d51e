"""Speed and memory of a training step: every trainer runs at once, each waiting for its turn at the next batch.

Rounds are interleaved, so that a busy spell of the machine hits all of them; ratios are paired within a round.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .peers import TRAINERS, Job, shuffled

ENDLESS = 10**7


class Stop(Exception):
    """Ends a trainer that waits for a batch."""


class Turns:
    """Batches that are handed out only in turns, and the clock of a turn.

    The trainer runs in a thread of its own; `take(n)` lets it do n steps and returns the wall and the CPU time of the process
    meanwhile. A step is timed from one request for a batch to the next, so all that a trainer does in between counts.
    """

    def __init__(self, name: str, job: Job, batches: Iterable[Tensor], threads: int) -> None:
        self._batches, self._threads, self._left = batches, threads, 0
        self._go, self._idle, self._precision = threading.Event(), threading.Event(), "highest"
        self._stopped, self._error = False, None
        self._thread = threading.Thread(target=self._run, args=(name, job), daemon=True)
        self._thread.start()
        self._wait()

    def _run(self, name: str, job: Job) -> None:
        set_threads(self._threads)
        try:
            TRAINERS[name](job, self._gated())
        except Stop:
            pass
        except BaseException as error:
            self._error = error
            self._idle.set()

    def _gated(self) -> Iterator[Tensor]:
        for batch in self._batches:
            if self._left == 0:
                self._precision = torch.get_float32_matmul_precision()  # global to the process; one trainer sets it
                self._idle.set()
                self._go.wait()
                self._go.clear()
                if self._stopped:
                    raise Stop
                set_threads(self._threads)
                torch.set_float32_matmul_precision(self._precision)
            self._left -= 1
            yield batch

    def _wait(self) -> None:
        self._idle.wait()
        if self._error is not None:
            raise self._error

    def take(self, steps: int) -> tuple[float, float]:
        """Return (wall, CPU) seconds of so many steps."""
        self._idle.clear()
        self._left = steps
        wall, cpu = time.perf_counter(), time.process_time()
        self._go.set()
        self._wait()
        return time.perf_counter() - wall, time.process_time() - cpu

    def close(self) -> None:
        """End the trainer."""
        self._stopped = True
        self._go.set()
        self._thread.join()


def set_threads(n: int) -> None:
    """Set torch's and numba's threads, of the calling thread."""
    import numba

    torch.set_num_threads(n)
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))


def compare(
    job: Job, tokens: Tensor, names: Iterable[str], *, threads: int, rounds: int, steps: int, warm_up: int
) -> dict[str, Any]:
    """Return, of every trainer, the medians over rounds of tokens/s and CPU microseconds a token, and the raw rounds."""
    turns = {}
    try:
        for name in names:
            folder = job.folder / f"speed {name}"
            folder.mkdir(parents=True, exist_ok=True)
            endless = replace(job, steps=ENDLESS, folder=folder)
            turns[name] = Turns(name, endless, shuffled(tokens, job.batch, job.seed), threads)
        for turn in turns.values():
            turn.take(warm_up)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
        for number in range(rounds):
            order = list(turns) if number % 2 == 0 else list(turns)[::-1]
            for name in order:
                taken[name].append(turns[name].take(steps))
    finally:
        for turn in turns.values():
            turn.close()
        torch.set_float32_matmul_precision("highest")
    n = steps * job.batch
    walls = {name: np.array([wall for wall, _ in rows]) for name, rows in taken.items()}
    cpus = {name: np.array([cpu for _, cpu in rows]) for name, rows in taken.items()}
    result = {}
    for name in taken:
        result[name] = {
            "tokens_per_second": float(n / np.median(walls[name])),
            "cpu_us_per_token": float(1e6 * np.median(cpus[name]) / n),
        }
        if "sparsify" in taken:
            result[name]["speed_ratio"] = float(np.median(walls["sparsify"] / walls[name]))
            result[name]["cpu_ratio"] = float(np.median(cpus["sparsify"] / cpus[name]))
    return result


def memory(name: str, job: Job, tokens: Tensor, steps: int) -> float:
    """Return the MB that training adds at its peak to the process, in which imports and kernels are warm already."""
    job.folder.mkdir(parents=True, exist_ok=True)
    small = Job(16, 64, 4, 64, 4, 0, job.folder / "small")
    small.folder.mkdir(exist_ok=True)
    TRAINERS[name](small, shuffled(torch.randn(512, 16), 64, 0))
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    with contextlib.suppress(FileNotFoundError):
        (job.folder / "checkpoint.pt").unlink()
    TRAINERS[name](replace(job, steps=steps), shuffled(tokens, job.batch, 0))
    return status("VmHWM") - before


def status(field: str) -> float:
    """Return a memory figure of this process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)
