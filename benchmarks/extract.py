"""`make bench-extract`: what a cell costs beside the published code, and what the cached stream saves in a fit.

Extraction, at AIDO.Cell-3M's sizes with random weights: the residual stream after one block, and the predicted
expression where the whole model is run. Every variant runs in a process of its own, so that its peak memory is its own,
and the variants take turns, so that a ratio is of one moment's machine; on a busy one read the CPU times, taken with
OMP_NUM_THREADS=1. The published code gets a right attention (tests/oracle/reference.py); its S x S mask is left in and
taken out. Outputs must agree to 1e-4.

Fit, at AIDO.Cell-100M's sizes on short sequences: one gradient of the expression objective after block 12, with the
stream cached, with all blocks run again under frozen weights, and with every weight left trainable. The SAE's codes are
given to all three, so the ratio is that of the passes through the model.

The first run of each is a warm-up. Linux only (peak memory from /proc). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

# The parent process stays light: torch is imported in the workers.

VARIANTS = {
    "published": ("published", "highest"),
    "published, no mask": ("published, no mask", "highest"),
    "ours, whole": ("ours, whole", "highest"),
    "ours, to the block": ("ours, to the block", "highest"),
    "published, no mask, medium": ("published, no mask", "medium"),
    "ours, whole, medium": ("ours, whole", "medium"),
    "ours, to the block, medium": ("ours, to the block", "medium"),
}
"""name -> (what runs, torch.set_float32_matmul_precision)"""

TOLERANCE = 1e-4
WARM_UP_TOKENS = 64
STEERED_BLOCK = 12
FIT_SIZES = (640, 18, 20, 1664)
"""Width, blocks, heads and inner width of AIDO.Cell-100M."""
WAYS = ("cached", "frozen", "unfrozen")


def memory(field: str) -> float:
    """Return VmHWM (peak) or VmRSS (now) of this process in MB; ru_maxrss would carry the parent's over."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Write the checkpoint and one cell's values."""
    import numpy as np

    from tests.oracle import reference

    reference.save(reference.build(reference.S3M), options.folder, form="model.safetensors")
    rng = np.random.default_rng(0)
    values = np.where(rng.random((1, options.tokens)) < 0.9, 0, rng.random((1, options.tokens)) * 6)
    values[:, -2:] = 5
    np.save(options.folder / "values.npy", values.astype(np.float32))
    return {}


def extract(options: argparse.Namespace) -> dict[str, Any]:
    """Run one variant once and keep its outputs in the folder."""
    import numpy as np
    import torch

    what, precision = VARIANTS[options.worker]
    torch.set_float32_matmul_precision(precision)
    values = torch.from_numpy(np.load(options.folder / "values.npy"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if what.startswith("published"):
            from tests.oracle import reference

            logging.getLogger("modelgenerator").setLevel(logging.ERROR)  # it warns of a cast that changes nothing
            stack.enter_context(reference.attention(mask="no mask" not in what))
            network = reference.build(reference.S3M)
            kept = []
            network.bert.encoder.layer[options.layer].register_forward_hook(lambda module, args, out: kept.append(out[0]))

            def one_cell(values):
                kept.clear()
                logits = network(values).logits[..., 0]
                return kept[0], logits

        else:
            from steerpipe.models.checkpoints import load_model

            model = load_model(options.folder)

            def one_cell(values):
                stream = model.stream(values, options.layer)
                return stream, model.forward_from(options.layer, stream).expression if "whole" in what else None

        one_cell(values[:, :WARM_UP_TOKENS])
        loaded, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
        stream, logits = one_cell(values)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {"seconds": wall, "cpu_seconds": cpu, "peak_mb": memory("VmHWM"), "loaded_mb": loaded}
    np.save(options.folder / f"{options.worker}.stream.npy", stream)
    if logits is not None:
        np.save(options.folder / f"{options.worker}.logits.npy", logits)
    # "medium" routes to oneDNN only where the processor has bfloat16 instructions, so the capability belongs to the result
    capability = torch.backends.cpu.get_cpu_capability()
    return result | {"threads": torch.get_num_threads(), "torch": torch.__version__, "cpu": capability}


def fit(options: argparse.Namespace) -> dict[str, Any]:
    """Time one gradient of the expression objective, three ways and two precisions in turn."""
    from dataclasses import dataclass

    import numpy as np
    import torch

    from steerpipe.models.aido_cell import AidoCell, ArchConfig
    from steerpipe.sae.model import TopKSAE
    from steerpipe.steering.intervene import Batch, CachedCells
    from steerpipe.steering.objectives import ExpressionObjective

    torch.set_float32_matmul_precision("highest")  # the streams that are cached here, whatever ran before

    @dataclass(frozen=True, kw_only=True)
    class Rerun(CachedCells):
        """Cells whose stream is computed anew for every gradient."""

        values: torch.Tensor

        def batches(self, cells, batch_size, streams=None):
            for start in range(0, len(cells), batch_size):
                yield Batch(self.model.stream(self.values[cells[start : start + batch_size]], self.layer))

    torch.manual_seed(0)
    genes = options.fit_tokens - 2
    model = AidoCell(ArchConfig(*FIT_SIZES, genes), map(str, range(genes))).eval().requires_grad_(False)
    sae = TopKSAE(FIT_SIZES[0], 8 * FIT_SIZES[0], 32).initialise(0).requires_grad_(False)
    values, valid, cells = (
        torch.rand(options.fit_cells, options.fit_tokens) * 5,
        torch.arange(genes),
        np.arange(options.fit_cells),
    )
    with torch.no_grad():
        streams = model.stream(values, STEERED_BLOCK).numpy()
    mu, weights = np.ones(genes, np.float32), np.full(genes, 1 / genes, np.float32)
    cached = CachedCells(model, STEERED_BLOCK, streams, valid)
    again = Rerun(model, STEERED_BLOCK, streams, valid, values=values)
    problems = {way: ExpressionObjective(cached if way == "cached" else again, cells, sae, mu, weights) for way in WAYS}
    theta = np.random.default_rng(0).normal(size=sae.n_features) * 0.1

    walls: dict[tuple[str, str], list[float]] = {}
    cpus: dict[tuple[str, str], list[float]] = {}
    gradients = {}
    for turn in range(options.fit_repeats + 1):
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            for way in WAYS:
                model.requires_grad_(way == "unfrozen")
                wall, cpu = time.perf_counter(), time.process_time()
                _, gradients[way, precision] = problems[way].value_and_gradient(theta)
                if turn:
                    walls.setdefault((way, precision), []).append(time.perf_counter() - wall)
                    cpus.setdefault((way, precision), []).append(time.process_time() - cpu)
                model.zero_grad(set_to_none=True)

    def ratio(times, way, precision="highest"):
        return median(a / b for a, b in zip(times[way, precision], times["cached", precision], strict=True))

    right = gradients["cached", "highest"]
    return {
        "tokens": options.fit_tokens,
        "cells": options.fit_cells,
        "steps_per_second": {f"{way}, {precision}": 1 / median(ts) for (way, precision), ts in walls.items()},
        "steps_per_cpu_second": {f"{way}, {precision}": 1 / median(ts) for (way, precision), ts in cpus.items()},
        "cached_over_frozen": ratio(walls, "frozen"),
        "cached_over_unfrozen": ratio(walls, "unfrozen"),
        "cpu_cached_over_frozen": ratio(cpus, "frozen"),
        "cpu_cached_over_unfrozen": ratio(cpus, "unfrozen"),
        "medium_over_highest_cached": median(
            a / b for a, b in zip(cpus["cached", "highest"], cpus["cached", "medium"], strict=True)
        ),
        "largest_relative_difference": {
            f"{way}, {precision}": float(np.abs(g - right).max() / np.abs(right).max())
            for (way, precision), g in gradients.items()
        },
    }


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Do what `options.worker` names."""
    return {"prepare": prepare, "fit": fit}.get(options.worker, extract)(options)


def spawn(worker: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one worker process and return what its last line says."""
    command = [sys.executable, "-m", "benchmarks.extract", "--worker", worker, "--folder", str(folder)]
    for name in ("tokens", "layer", "fit_tokens", "fit_cells", "fit_repeats"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}  # it speaks of generation, which is not used here
    root = Path(__file__).parent.parent
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(folder: Path, name: str) -> float:
    """Return the largest difference of a variant's outputs from the published code's."""
    import numpy as np

    differences = []
    for output in ("stream", "logits"):
        path = folder / f"{name}.{output}.npy"
        if path.is_file():
            differences.append(float(np.abs(np.load(path) - np.load(folder / f"published.{output}.npy")).max()))
    return max(differences)


def main(options: argparse.Namespace) -> int:
    """Run the workers in turn, print a table and the figures; 1 if the outputs do not agree."""
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn("prepare", options, folder)
        for turn in range(options.repeats):
            rounds.append({})
            for variant in VARIANTS:
                rounds[-1][variant] = run = spawn(variant, options, folder)
                print(
                    f"round {turn + 1}  {variant:<28}{run['seconds']:8.2f} s  {run['cpu_seconds']:8.2f} s of CPU"
                    f"{run['peak_mb']:8.0f} MB at most, {run['loaded_mb']:.0f} before",
                    flush=True,
                )
        difference = {variant: compare(folder, variant) for variant in VARIANTS}
        fitted = spawn("fit", options, folder)

    def of(variant, key):
        return median(turn[variant][key] for turn in rounds)

    def faster(variant, than, clock="seconds"):
        return median(turn[than][clock] / turn[variant][clock] for turn in rounds)

    rows = {
        variant: {
            "seconds": of(variant, "seconds"),
            "cpu_seconds": of(variant, "cpu_seconds"),
            "peak_mb": of(variant, "peak_mb"),
            "added_mb": of(variant, "peak_mb") - of(variant, "loaded_mb"),
            "speedup_over_published": faster(variant, "published"),
            "speedup_over_published_no_mask": faster(variant, "published, no mask"),
            "cpu_speedup_over_published": faster(variant, "published", "cpu_seconds"),
            "cpu_speedup_over_published_no_mask": faster(variant, "published, no mask", "cpu_seconds"),
            "peak_over_published": of(variant, "peak_mb") / of("published", "peak_mb"),
            "largest_difference": difference[variant],
        }
        for variant in VARIANTS
    }
    first = rounds[0]["published"]
    print(
        f"\n3M, {options.tokens} tokens, stream after block {options.layer}, {first['threads']} threads, torch {first['torch']}"
    )
    for variant, row in rows.items():
        print(
            f"{variant:<28}{row['seconds']:8.2f} s {row['speedup_over_published']:6.2f}x"
            f"{row['cpu_seconds']:8.2f} s of CPU {row['cpu_speedup_over_published']:6.2f}x"
            f"{row['peak_mb']:7.0f} MB {row['peak_over_published']:5.2f}x  |difference| <= {row['largest_difference']:.1e}"
        )
    print(f"\n100M, {options.fit_tokens} tokens x {options.fit_cells}, gradient steps per second after block {STEERED_BLOCK}")
    for way, speed in fitted["steps_per_second"].items():
        print(f"{way:<28}{speed:8.3f}  {fitted['steps_per_cpu_second'][way]:8.3f} per second of CPU")
    for clock, key in (("wall", ""), ("CPU", "cpu_")):
        frozen, unfrozen = fitted[f"{key}cached_over_frozen"], fitted[f"{key}cached_over_unfrozen"]
        print(f"cached / frozen {frozen:.2f}x, cached / unfrozen {unfrozen:.2f}x by {clock} time")
    print()

    exact = {variant: d for variant, d in difference.items() if "medium" not in variant}
    agree = max(exact.values()) <= TOLERANCE
    figures = {"tokens": options.tokens, "layer": options.layer, "repeats": options.repeats}
    figures |= {key: first[key] for key in ("threads", "torch", "cpu")}
    print(json.dumps(figures | {"outputs_agree": agree, "extract": rows, "fit": fitted}))
    return 0 if agree else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=19_266, help="tokens of the cell that is extracted")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all extraction variants")
    parser.add_argument("--layer", type=int, default=3, help="0-based block whose stream is kept, of 6")
    parser.add_argument("--fit-tokens", type=int, default=512)
    parser.add_argument("--fit-cells", type=int, default=1)
    parser.add_argument("--fit-repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is None:
        sys.exit(main(options))
    print(json.dumps(work(options)))
