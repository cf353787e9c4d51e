"""The benchmark's figures as Markdown tables."""

from __future__ import annotations

from typing import Any

COLUMNS = {
    "tokens/s": ("tokens_per_second", "{:,.0f}"),
    "ratio": ("speed_ratio", "{:.2f}"),
    "us CPU/token": ("cpu_us_per_token", "{:.1f}"),
    "ratio ": ("cpu_ratio", "{:.2f}"),
    "added MB": ("added_mb", "{:.0f}"),
    "FVU": ("fvu", "{:.4f}"),
    "ratio  ": ("fvu_ratio", "{:.4f}"),
    "L0": ("l0", "{:.1f}"),
    "dead": ("dead", "{:.3f}"),
    "MMCS": ("mmcs", "{:.3f}"),
    "matched": ("matched", "{:.3f}"),
}


def show(figures: dict[str, Any], speed_batch: int, quality_batch: int) -> None:
    """Print a table of every setting."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items() if "(" not in name)
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in figures["gemm_gflops_one_thread"].items())
    print(f"{versions}\nCPU capability {figures['capability']}; the encoder's product on one thread, GFLOP/s: {rates}")
    print(
        f"Every trainer by its own entry point, optimiser, loss and default rate, on the same tokens in the same order,\n"
        f"centred and scaled to mean squared norm D. Speed: interleaved rounds of steps of {speed_batch} tokens, medians;\n"
        f"tokens/s on two threads, CPU time on one; ratios to sparsify, paired. Quality: held-out\n"
        f"tokens after training with steps of {quality_batch}; mean and sd over seeds; FVU ratio to sparsify, paired by seed;\n"
        "dead: never active on held-out tokens."
    )
    for name, found in figures.items():
        if not isinstance(found, dict) or "trainers" not in found:
            continue
        size = found["setting"]
        print(f"\n{name}: D {size['width']}, F {size['features']}, k {size['k']}; quality at {found['tokens']:,} tokens")
        rows = found["trainers"]
        shown = {title: spec for title, spec in COLUMNS.items() if any(spec[0] in row for row in rows.values())}
        print("| | " + " | ".join(shown) + " |\n|---|" + "---|" * len(shown))
        for trainer, row in rows.items():
            print(f"| {trainer} | " + " | ".join(cell(row.get(key), form) for key, form in shown.values()) + " |")
    if figures["missing"]:
        print(f"\n{figures['missing']} runs are still missing: the same command goes on with them")


def cell(value: Any, form: str) -> str:
    """Return a value, or mean and sd."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        sd = "" if value["sd"] is None else f" ± {value['sd']:.4f}"
        return form.format(value["mean"]) + sd
    return form.format(value)
