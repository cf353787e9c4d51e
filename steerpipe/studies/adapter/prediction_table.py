"""Every arm's scores on every left-out perturbation, medians, nulls, and what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ...evaluate.prediction import DE, PROFILE, de_scores, profile_scores, weighted_mse
from .baselines import ADDITIVE, MEAN, NEIGHBOURS, NOTHING, RIDGE
from .predict import CEILING, CONTROL_MEAN, DENSE, FITTED, Bench, Predicted

LEVEL = 0.05
SCORES = {**PROFILE, "wmse": False, **dict.fromkeys(DE, True)}
"""Every score, and whether more is better."""
KNOWING = (FITTED, DENSE, CEILING)
"""Arms that saw cells of the perturbation that they predict: bounds, no competitors."""
ORDER = (NOTHING, CONTROL_MEAN, MEAN, ADDITIVE, RIDGE, NEIGHBOURS)


def all_scores(bench: Bench, found: Predicted, seed: int) -> pd.DataFrame:
    """Return a row an arm and target: arm, perturbation, unseen (by model and dictionary too), and SCORES."""
    genes = [gene for gene, there in zip(bench.experiment.genes, bench.among, strict=True) if there]
    cells = {i: bench.measured(one.scored)[:, bench.among] for i, one in enumerate(bench.targets)}
    held: dict[str, list[np.ndarray]] = {}
    for one in bench.targets:
        held.setdefault(one.context, []).append(bench.experiment.cells[one.held])
    controls = {where: bench.measured(np.unique(np.concatenate(some)))[:, bench.among] for where, some in held.items()}
    frames = []
    for arm, changes in found.changes.items():
        numbers = np.flatnonzero(np.isfinite(changes).all(1)).tolist()
        if len(numbers) < 1:
            continue
        predicted, real = (values[numbers][:, bench.among] for values in (changes, bench.real))
        names = [bench.targets[i].name for i in numbers]
        frame = profile_scores(predicted, real, names, genes).reset_index(drop=True)
        frame["wmse"] = [weighted_mse(p, r, bench.weights(i)) for p, r, i in zip(predicted, real, numbers, strict=True)]
        parts = []
        for context in dict.fromkeys(bench.targets[i].context for i in numbers):
            mine = [n for n, i in enumerate(numbers) if bench.targets[i].context == context]
            parts.append(
                de_scores({names[n]: predicted[n] for n in mine}, {names[n]: cells[numbers[n]] for n in mine},
                          controls[context], genes, seed)
            )  # fmt: skip
        frame = frame.join(pd.concat(parts).loc[names].reset_index(drop=True))
        unseen = [bench.targets[i].fold < 0 for i in numbers]
        frames.append(frame.assign(arm=arm, perturbation=names, unseen=unseen))
    table = pd.concat(frames, ignore_index=True)
    return table[["arm", "perturbation", "unseen", *SCORES]]


def null_scores(bench: Bench, found: Predicted) -> pd.DataFrame:
    """Return the median pearson_delta and wmse over targets of every shuffled training: network, draw, pearson_delta, wmse."""
    genes = [gene for gene, there in zip(bench.experiment.genes, bench.among, strict=True) if there]
    rows = []
    for network, draws in found.null.items():
        numbers = np.flatnonzero(np.isfinite(found.changes[network]).all(1)).tolist()
        real, names = bench.real[numbers][:, bench.among], [bench.targets[i].name for i in numbers]
        own = [bench.weights(i) for i in numbers]
        for draw, changes in enumerate(draws):
            predicted = changes[numbers][:, bench.among]
            correlation = profile_scores(predicted, real, names, genes)["pearson_delta"].fillna(0).median()
            errors = [weighted_mse(p, r, w) for p, r, w in zip(predicted, real, own, strict=True)]
            rows.append({"network": network, "draw": draw, "pearson_delta": correlation, "wmse": np.median(errors)})
    return pd.DataFrame(rows, columns=["network", "draw", "pearson_delta", "wmse"])


def summary(scores: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Return a row an arm: medians, targets on which its weighted error is below the mean perturbation's, and p of its null."""
    mean = scores[scores["arm"] == MEAN].set_index("perturbation")["wmse"]
    rows = []
    for arm, some in scores.groupby("arm", sort=False):
        own = some.set_index("perturbation")["wmse"]
        shared = own.index.intersection(mean.index)
        better = int((own[shared] < mean[shared]).sum())
        row = {"arm": arm, "targets": len(some), **{name: _median(some[name]) for name in SCORES}}
        row |= {"pearson_delta": some["pearson_delta"].fillna(0).median()}  # no change has no correlation: counted as none
        row |= {"beats_mean": better, "beats_mean_p": _sign_p(better, len(shared)) if arm != MEAN else np.nan}
        for name in ("pearson_delta", "wmse"):
            drawn = null.loc[null["network"] == arm, name].to_numpy()
            sign = 1 if SCORES[name] else -1
            row[f"{name}_p"] = (1 + (sign * drawn >= sign * row[name]).sum()) / (1 + len(drawn)) if len(drawn) else np.nan
            row[f"{name}_null"] = np.median(drawn) if len(drawn) else np.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    order = {name: at for at, name in enumerate((*ORDER, *null["network"].unique(), DENSE, FITTED, CEILING))}
    return table.sort_values("arm", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def _median(values: pd.Series) -> float:
    """Of those that there are: no change has no correlation, and few cells may have no DE genes."""
    there = values.dropna()
    return float(there.median()) if len(there) else float("nan")


def _sign_p(better: int, n: int) -> float:
    return float(stats.binomtest(better, n, alternative="greater").pvalue) if n else float("nan")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return what fits on a screen."""
    names = {"arm": "arm", "targets": "n", "pearson_delta": "pearson", "pearson_delta_p": "p", "mae": "MAE",
             "discrimination_score_l1": "discr", "overlap_at_N": "overlap", "wmse": "wMSE", "wmse_p": "p ",
             "beats_mean": "< mean"}  # fmt: skip
    return table[list(names)].rename(columns=names).round(4)


def lines(table: pd.DataFrame, scores: pd.DataFrame, split: str) -> list[str]:
    """Return what is said: the networks against the mean, against their null, and what is in reach at all."""
    by = table.set_index("arm")
    networks = [name for name in by.index if np.isfinite(by.loc[name, "pearson_delta_p"])]
    n, unseen = int(by.loc[MEAN, "targets"]), int(scores.loc[scores["arm"] == MEAN, "unseen"].sum())
    said = [f"{split}: {n} targets left out, {unseen} of them seen by neither model nor dictionary."]
    for name in networks:
        one, mean = by.loc[name], by.loc[MEAN]
        better, told = one["beats_mean_p"] <= LEVEL, one["wmse_p"] <= LEVEL
        verdict = "better than the mean" if better else "no better than the mean"
        shuffled = "and than its shuffled trainings" if told else "and no better than its shuffled trainings"
        if better and not told:
            shuffled = "but so are its shuffled trainings: nothing was learnt of the names"
        wins = f"lower for {one['beats_mean']:.0f} of {n} (sign test p = {one['beats_mean_p']:.2g})"
        said.append(
            f"{name}: weighted error {one['wmse']:.3g} (mean perturbation {mean['wmse']:.3g}), {wins}: {verdict}, {shuffled} "
            f"(p = {one['wmse_p']:.2g}); correlation {one['pearson_delta']:.2f} (mean {mean['pearson_delta']:.2f}, p = "
            f"{one['pearson_delta_p']:.2g})."
        )
    floor = by.loc[CONTROL_MEAN]
    said.append(
        f"{CONTROL_MEAN}: correlation {floor['pearson_delta']:.2f}, weighted error {floor['wmse']:.3g}. It knows of no "
        "perturbation, and shares with the real change the noise of the held-out control cells: so much is noise."
    )
    simple = [name for name in by.index if name not in (*networks, *KNOWING, CONTROL_MEAN) and by.loc[name, "targets"] == n]
    best = by.loc[simple, "wmse"].idxmin()
    knowing = ", ".join(f"{name} {by.loc[name, 'wmse']:.3g}" for name in KNOWING)
    said.append(f"Best of what needs no model: {best}, {by.loc[best, 'wmse']:.3g}. Knowing the perturbed cells: {knowing}.")
    return said
