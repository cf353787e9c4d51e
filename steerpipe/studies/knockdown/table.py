"""What is read of the perturbations, a row each, and what is said of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ...evaluate.knockdown import Block
from ...evaluate.population import permutation_p
from .compute import CEILING, DENSE, NULL, RANDOM, RECIPE, Measured

LEVEL = 0.05
SCORES = ("auprc", "overlap", "sign", "gap")


def row(one: Measured) -> dict[str, object]:
    """Return a perturbation's row.

    Returns
    -------
    perturbation, objective, features, de (real DE genes), chance (their share of the ranked genes); for each score of SCORES
    the recipe's, and _p against the null; auprc of null (mean, 2.5 and 97.5 percentile), random, dense and ceiling; edistance;
    overlap and sign of the dense vector and the ceiling
    """
    arms = dict(list(one.scores.groupby("arm")))
    recipe = arms[RECIPE].iloc[0]
    ranked = int(one.among.sum())
    n = int((one.signs != 0).sum())
    found: dict[str, object] = {
        "perturbation": one.target.name,
        "objective": one.objective,
        "features": int((one.theta != 0).sum()),
        "cells": len(one.target.sides.target),
        "held": len(one.target.target_held),
        "de": n,
        "chance": n / ranked if ranked else float("nan"),
    }
    null = arms.get(NULL, one.scores.head(0))
    for score in SCORES:
        value, drawn = float(recipe[score]), null[score].to_numpy(float)
        found[score] = value
        found[f"{score}_p"] = permutation_p(value, drawn, "higher").p if np.isfinite(value) and len(drawn) else float("nan")
    drawn = null["auprc"].to_numpy(float)
    known = len(drawn) and np.isfinite(drawn).all()
    for name, share in (("null_lo", 2.5), ("null_hi", 97.5)):
        found[f"auprc_{name}"] = float(np.percentile(drawn, share)) if known else float("nan")
    for arm in (NULL, RANDOM, DENSE, CEILING):
        for score in ("auprc", "overlap", "sign"):
            found[f"{score}_{arm}"] = float(arms[arm][score].mean()) if arm in arms else float("nan")
    found["gap_dense"], found["edistance"] = float(arms[DENSE]["gap"].iloc[0]), float(recipe["edistance"])
    return found


def with_q(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with q of auprc_p and gap_p, Benjamini and Hochberg over the perturbations of each objective."""
    for name in ("auprc", "gap"):
        table[f"{name}_q"] = np.nan
        for _, some in table.groupby("objective"):
            there = some[f"{name}_p"].notna()
            if there.any():
                q = stats.false_discovery_control(some.loc[there, f"{name}_p"])
                table.loc[some.index[there], f"{name}_q"] = q
    return table


def programme_rows(table: Mapping[str, Mapping[str, float]], objective: str) -> pd.DataFrame:
    """Return a row a recipe: auroc of its own gene's programmes, of the others' (mean), p, q.

    p is the share of perturbations, itself among them, whose programmes are ranked as high.
    """
    rows = []
    for name, aurocs in table.items():
        others = np.array([value for gene, value in aurocs.items() if gene != name])
        own = aurocs[name]
        p = (1 + int((others >= own).sum())) / (1 + len(others))
        mean = float(others.mean()) if len(others) else float("nan")
        rows.append({"perturbation": name, "objective": objective, "auroc": own, "others": mean, "p": p})
    frame = pd.DataFrame(rows, columns=["perturbation", "objective", "auroc", "others", "p"])
    return frame.assign(q=stats.false_discovery_control(frame["p"]) if len(frame) else [])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return what fits on a screen."""
    columns = {
        "perturbation": "perturbation", "features": "features", "de": "DE", "auprc": "AUPRC", "chance": "chance",
        "auprc_null": "null", "auprc_random": "random", "auprc_dense": "dense", "auprc_ceiling": "ceiling", "auprc_q": "q",
        "sign": "sign", "gap": "gap", "gap_q": "gap q",
    }  # fmt: skip
    return table[list(columns)].rename(columns=columns).round(3)


def lines(
    table: pd.DataFrame, programmes: pd.DataFrame, mean_auroc: tuple[float, float], block: Block | None, objective: str
) -> list[str]:
    """Return what is said of one objective."""
    judged = table[table["auprc"].notna()]
    beyond, near = int((judged["auprc_q"] <= LEVEL).sum()), int((table["gap_q"] <= LEVEL).sum())
    n = len(table)
    said = [
        f"{objective}: {n} perturbations, {len(judged)} with DE genes among held-out cells. DE genes are ranked above the "
        f"null by {beyond} of {len(judged)} recipes (q <= {LEVEL:g}, BH); {near} of {n} close more of the gap."
    ]
    if len(judged):
        names = {"recipe": "auprc", "chance": "chance", "null": "auprc_null", "random features": "auprc_random",
                 "dense vector": "auprc_dense", "other half of the cells": "auprc_ceiling"}  # fmt: skip
        median = ", ".join(f"{name} {judged[column].median():.2f}" for name, column in names.items())
        said.append(f"Median AUPRC: {median}.")
        if (judged["auprc"] <= judged["auprc_dense"]).mean() > 0.5:
            said.append("The dense vector ranks DE genes at least as well in most: sparsity costs, it does not help.")
    if len(programmes):
        mean, p = mean_auroc
        hits = programmes.loc[programmes["q"] <= LEVEL, "perturbation"]
        which = f": {', '.join(hits)}" if len(hits) else ""
        said.append(
            f"Programmes: mean AUROC of the perturbed gene's own {mean:.2f} (p = {p:.2g}, names dealt anew); "
            f"{len(hits)} of {len(programmes)} alone at q <= {LEVEL:g}{which}."
        )
    else:
        said.append("Programmes: no perturbed gene has enough of them among these genes, so that nothing can be said.")
    if block is not None:
        verdict = "alike" if block.p <= LEVEL else "no more alike than any others"
        said.append(
            f"Pathway block: cosine {block.within:.2f} within, {block.between:.2f} to the others (p = {block.p:.2g}): "
            f"{verdict}."
        )
    return said


def similarity_frame(similarity: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Return the cosines as a table."""
    return pd.DataFrame(similarity, index=list(names), columns=list(names)).rename_axis("perturbation")
