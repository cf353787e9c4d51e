"""What is read of the targets: n50, the share of single units, step or continuum, and the verdict by its rule."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...evaluate.granularity import compare_curves, curve_fit, n_for_half
from ...evaluate.population import permutation_p
from .compute import COMPONENT, DENSE, MODULE, SINGLE, WHOLE

LEVEL = 0.05
HALF = 0.5
FEW = 8
MARGIN = 0.8
VERDICTS = ("one feature", "a module", "a step", "a few features", "a continuum", "nothing")
RULE = (
    f"Rule: nothing, if the dense vector's gap is within its null (p > {LEVEL:g}); one feature, if the best one closes half of "
    f"the dense vector's gap; a module, if the best module or component does, and more than the best of as many random ones "
    f"(p <= {LEVEL:g}); a step, if c min(n/s, 1)^h predicts left-out points of the curve with less than {MARGIN:g} of the "
    f"error of c (1 - exp(-(n/s)^h)); a few features, if n50 is at most {FEW}; else a continuum."
)


def target_row(units: pd.DataFrame, random: pd.DataFrame) -> dict[str, object]:
    """Return one target's readings.

    Returns
    -------
    dense_gap, dense_p, n50, n50_random (median over draws), single_share, component_share, module_share (of the dense vector's
    gap), component_n, module_n, component_p, module_p (against the best of as many random groups), whole_n, whole_share,
    single_off, dense_off, step_error, smooth_error, step_at, verdict
    """
    table = units.set_index("unit")
    dense = float(table.loc[DENSE, "gap"])
    curve = _curve(units)
    n, gap = curve["n"].to_numpy(float), curve["gap"].to_numpy(float)
    halves = [
        n_for_half(one["n"].to_numpy(float), one["gap"].to_numpy(float), dense)
        for _, one in random[random["unit"] == "features"].groupby("draw")
    ]
    row: dict[str, object] = {"dense_gap": dense, "dense_p": table.loc[DENSE, "p"], "n50": n_for_half(n, gap, dense)}
    row["n50_random"] = float(np.median(halves)) if halves else float("nan")
    names = {"single": SINGLE, "component": COMPONENT, "module": MODULE, "whole": WHOLE}
    for short, name in names.items():
        there = name in table.index
        row[f"{short}_share"] = float(table.loc[name, "gap"]) / dense if there and dense > 0 else float("nan")
        row[f"{short}_n"] = int(table.loc[name, "n"]) if there else 0
        if short in ("component", "module"):
            null = random.loc[random["unit"] == name, "gap"].to_numpy(float)
            row[f"{short}_p"] = permutation_p(float(table.loc[name, "gap"]), null, "higher").p if there else float("nan")
    row |= {f"{short}_off": float(table.loc[name, "off_target"]) for short, name in (("single", SINGLE), ("dense", DENSE))}
    row |= {f"{short}_c2st": float(table.loc[name, "c2st"]) for short, name in (("whole", WHOLE), ("dense", DENSE))}
    row |= {f"{short}_expression": float(table.loc[name, "expression_gap"])
            for short, name in (("single", SINGLE), ("whole", WHOLE), ("dense", DENSE))}  # fmt: skip
    enough = len(n) >= 4 and dense > 0
    fit = curve_fit(n, gap / dense) if enough else None
    row |= (
        {"step_error": fit.step, "smooth_error": fit.smooth, "step_at": fit.at}
        if fit
        else dict.fromkeys(("step_error", "smooth_error", "step_at"), float("nan"))
    )
    return row | {"verdict": verdict(row)}


def verdict(row: dict[str, object]) -> str:
    """Return which of VERDICTS a target's readings give, by RULE."""

    def value(name: str) -> float:
        return float(row[name])  # type: ignore[arg-type]

    if not value("dense_p") <= LEVEL or value("dense_gap") <= 0:
        return "nothing"
    if value("single_share") >= HALF:
        return "one feature"
    if any(value(f"{one}_share") >= HALF and value(f"{one}_p") <= LEVEL for one in ("component", "module")):
        return "a module"
    if value("step_error") < MARGIN * value("smooth_error"):
        return "a step"
    return "a few features" if value("n50") <= FEW else "a continuum"


def curves(units: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """Return a target's curve: n, gap, share (of the dense vector's gap), off_target, and the random features' range."""
    table = units.set_index("unit")
    dense = float(table.loc[DENSE, "gap"])
    found = _curve(units)[["n", "gap", "off_target", "p"]].assign(share=lambda one: one["gap"] / dense)
    drawn = random[random["unit"] == "features"].groupby("n")["gap"]
    band = {"random": drawn.mean(), "random_lo": drawn.quantile(0.025), "random_hi": drawn.quantile(0.975)}
    for name, values in band.items():
        found[name] = (values.reindex(found["n"]) / dense).to_numpy()
    return found.reset_index(drop=True)


def lines(targets: pd.DataFrame) -> list[str]:
    """Return the answer in words."""
    out = []
    there = targets[targets["verdict"] != "nothing"]
    for kind, some in targets.groupby("kind", sort=False):
        said = ", ".join(f"{name} {n}" for name in VERDICTS if (n := int((some["verdict"] == name).sum())))
        out.append(f"{len(some)} targets ({kind}s): {said}.")
    if not len(there):
        return [*out, "No target's dense vector is beyond its null: there is nothing to divide into units.", RULE]
    reached = there["n50"].replace(np.inf, np.nan)
    never = int(reached.isna().sum())
    out.append(
        f"Half of the dense vector's gap takes {reached.median():.1f} features in the median "
        f"({reached.min():.0f} to {reached.max():.0f}{f'; {never} targets never' if never else ''}), "
        f"of features ranked at random {there['n50_random'].replace(np.inf, np.nan).median():.0f}."
    )
    out.append(
        f"Of the dense vector's gap the best single feature closes {there['single_share'].median():.0%} in the median "
        f"(largest {there['single_share'].max():.0%}), the best component {there['component_share'].median():.0%} "
        f"({there['component_n'].median():.0f} features), the best module {there['module_share'].median():.0%} "
        f"({there['module_n'].median():.0f} features); better than the best random module in "
        f"{int((there['module_p'] <= LEVEL).sum())} of {len(there)}."
    )
    p = compare_curves(there["step_error"].to_numpy(float), there["smooth_error"].to_numpy(float))
    better = "smooth" if there["smooth_error"].mean() <= there["step_error"].mean() else "step"
    out.append(
        f"Points left out of the curve: a smooth curve misses them by {there['smooth_error'].mean():.3f}, one with a step by "
        f"{there['step_error'].mean():.3f} of the dense vector's gap (mean over targets; {better} is better, signed-rank p "
        f"{p:.2g}). The ordered pairs share their cells, so that p counts them too often."
    )
    return [*out, RULE]


def readable(targets: pd.DataFrame) -> pd.DataFrame:
    """Return the table that is printed."""
    shown = pd.DataFrame({"target": targets["target"]})
    for name, title in {"dense_gap": "dense gap", "dense_p": "p", "n50": "n50", "n50_random": "n50 random"}.items():
        shown[title] = targets[name].map(lambda x: f"{x:.2g}")
    for name in ("single", "component", "module", "whole"):
        shown[name] = [f"{share:.0%} ({n})" for share, n in zip(targets[f"{name}_share"], targets[f"{name}_n"], strict=True)]
    shown["off target, dense"] = targets["dense_off"].map("{:.2f}".format)
    shown["verdict"] = targets["verdict"]
    return shown


def _curve(units: pd.DataFrame) -> pd.DataFrame:
    return units[units["unit"].str.endswith(" features")].sort_values("n")
