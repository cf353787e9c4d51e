"""Many programmes beside each other: the table and the figure of a sweep of `steer recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ...pipeline.program_scores import LEVEL, OWN
from ...plot.style import COLOURS, GREY, note, styled, subplots
from ..findings import Findings

NUMBERS = (
    "features",
    "rise",
    "sds",
    "p_program",
    "p_features",
    "explained",
    "random_mean",
    "p",
    "loop_rise",
    "loop_p",
    "beyond",
)
"""Of each job's `recipe/` numbers, those that are tabled."""
HUES = (COLOURS["latent"], COLOURS["expression"], COLOURS["program"], "#cc79a7", "#56b4e9", "#e69f00")


def sweep(jobs: Sequence[tuple[Path, dict[str, Any], dict[str, float]]]) -> Findings:
    """Return the table, the figure and the conclusion of a sweep's finished jobs.

    Parameters
    ----------
    jobs : folder, config and metrics of each

    Returns
    -------
    Findings with the table `programmes`, a row a job: programme, source, the numbers (p_explained is of the combination), named
        perturbations, null_lo and null_hi (95 % of random programmes' own rises, in SDs), and q_program: Benjamini and Hochberg
        over the jobs. A job whose recipe is nothing has features 0 and no numbers.
    """
    rows = [_row(*job) for job in jobs]
    table = pd.DataFrame(rows).rename(columns={"p": "p_explained"}).sort_values(["programme", "source"], ignore_index=True)
    there = table["p_program"].notna()
    table["q_program"] = np.nan
    if there.any():
        table.loc[there, "q_program"] = stats.false_discovery_control(table.loc[there, "p_program"])
    found = Findings()
    found.table("programmes", table)
    found.text("conclusion", said(table))
    if there.any():
        found.figure("programmes", forest(table[there]), table)
    return found


def said(table: pd.DataFrame) -> list[str]:
    """Return what the table says in words."""
    risen = table["beyond"].fillna(0) > 0
    corrected = risen & (table["q_program"] <= LEVEL)
    closed = table["loop_p"] <= LEVEL
    n, chance = len(table), LEVEL * len(table)
    names = [f"{row.programme} from {row.source}" for row in table[risen].itertuples()]
    lines = [
        f"{int(risen.sum())} of {n} programmes rise beyond their nulls on held-out genes and cells (chance {chance:.1f})"
        + (f": {', '.join(names)}" if names else "")
        + f"; {int(corrected.sum())} after Benjamini and Hochberg over all {n}.",
        f"Named perturbations raise {int(closed.sum())} of the {int(table['loop_p'].notna().sum())} for which there are any, "
        f"more than as many random candidates (chance {LEVEL * table['loop_p'].notna().sum():.1f}).",
    ]
    least = table["p_program"].min()
    if np.isfinite(least) and not corrected.any():
        lines.append(
            f"The least p is {least:.2g}; more random programmes (evaluate.n_permutations_model) could give a lower one."
        )
    return lines


@styled
def forest(table: pd.DataFrame) -> Figure:
    """Draw each programme's held-out rise in SDs, a dot a source, over the 95 % range of random programmes' own."""
    programmes, sources = list(dict.fromkeys(table["programme"])), list(dict.fromkeys(table["source"]))
    figure, (ax,) = subplots(1, 1, width=7.5, height=1.2 + (0.13 + 0.17 * len(sources)) * len(programmes))
    step = 0.7 / len(sources)
    for number, source in enumerate(sources):
        rows = table[table["source"] == source]
        at = np.array([len(programmes) - 1 - programmes.index(one) for one in rows["programme"]]) + 0.35 - step * (number + 0.5)
        ax.hlines(at, rows["null_lo"], rows["null_hi"], color="#e2e2e2", lw=5, zorder=0)
        hue = HUES[number % len(HUES)]
        beyond = rows["beyond"].to_numpy(float) > 0
        ax.scatter(rows["sds"], at, s=30, facecolors=np.where(beyond, hue, "white"), edgecolors=hue, zorder=3)
        ax.scatter([], [], color=hue, s=30, label=f"from {source}")
    ax.scatter([], [], facecolors="white", edgecolors=GREY, s=30, label="not beyond its nulls")
    ax.hlines([], [], [], color="#e2e2e2", lw=5, label="95 % of random programmes")
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(programmes)), programmes[::-1])
    ax.set_ylim(-0.6, len(programmes) - 0.4)
    ax.set_xlabel("rise of the held-out half of the genes in held-out cells [SDs of the cells' score]")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    note(figure, "each programme: a recipe fitted on one half of its genes, its SDs on the other half; one dictionary")
    return figure


def _row(folder: Path, config: dict[str, Any], metrics: dict[str, float]) -> dict[str, Any]:
    asked = config["recipe"]
    name = asked["set"] or (
        f"like {asked['like']}" if asked["like"] else " ".join([*asked["up"], *(f"-{one}" for one in asked["down"])])
    )
    row = {"job": folder.name, "programme": str(name).split(":")[-1], "source": config["contrast"]["source"]}
    row |= {name: metrics.get(f"recipe/{name}", np.nan) for name in NUMBERS}
    if "recipe/rise" not in metrics:
        return row | {"features": 0, "named": "", "null_lo": np.nan, "null_hi": np.nan}
    genes, draws = (pd.read_csv(folder / f"{table}.csv") for table in ("genes", "draws"))
    named = genes[genes["named"]]
    own = draws.loc[(draws["what"] == OWN) & (draws["half"] == "held"), "sds"]
    row["named"] = ", ".join(f"{one.gene} {one.kind}" for one in named.itertuples())
    return row | dict(zip(("null_lo", "null_hi"), own.quantile([0.025, 0.975]), strict=True))
