"""The table and the figures of a sweep over dictionaries; every job that ends writes them anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..pipeline.activations import Activations
from ..pipeline.context import Context
from ..pipeline.dictionary import Dictionary
from ..pipeline.recurrence import compared, of_seed
from ..plot import dictionaries as figures
from ..run import Run, save_figure, save_table, scored_jobs

log = logging.getLogger(__name__)
SETTINGS = ("expansion", "k", "selection", "seed", "lr", "tokens", "members", "support", "centre")
SCORES = ("fvu", "mse_uncentred", "l0", "dead", "rare", "fidelity_loss", "fidelity_expression")
STABILITY = ("recur", "recur_energy")
FRONT = {"fidelity_loss": 1, "recur_energy": 1, "l0": -1}
"""What a dictionary is chosen by, and whether more or less is better."""


def recurs_in_sweep(context: Context, run: Run, source: Activations, found: Dictionary) -> pd.DataFrame:
    """Return what this job's dictionary shares with those of the sweep's finished jobs that differ in their seed alone.

    Returns
    -------
    DataFrame, one row a seed: seed, recur, recur_energy, subspace, subspace_chance (see sae.stability.Recurrence.row)
    """
    own = run.manifest["config"]["sae"]
    rows = []
    for _, sae, _ in _finished(run.path.parent):
        if sae["seed"] != own["seed"] and {**sae, "seed": 0} == {**own, "seed": 0}:
            common = compared(context, source, found, of_seed(context, source, int(sae["seed"])))
            rows.append({"seed": sae["seed"], **common.row()})
    return pd.DataFrame(rows, columns=["seed", *STABILITY, "subspace", "subspace_chance"])


def write_sweep(folder: Path, caption: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write dictionaries.csv, settings.csv and plots/frontier.* of the finished jobs in a sweep's folder.

    Returns
    -------
    table : one row a job: job, the settings, n_features, and the scores on held-out cells
    settings : one row a setting, means over its seeds: those settings, n_features, seeds, the scores, recur, recur_energy
        (over pairs of its seeds; NaN for one seed), and front: no other setting is at least as good in fidelity,
        stability and L0 and better in one
    """
    rows, pairs = [], []
    for job, sae, scores in _finished(folder):
        row = {"job": job.name, **{name: sae[name] for name in SETTINGS}, "n_features": scores["sae/n_features"]}
        rows.append(row | {name: scores.get(f"sae_held/{name}") for name in SCORES} | {"seconds": scores["sae/seconds"]})
        if (job / "seeds.csv").is_file():
            pairs.append(pd.read_csv(job / "seeds.csv").assign(job=job.name))
    table = pd.DataFrame(rows)
    table = table.sort_values("job", key=lambda jobs: jobs.astype(int)) if table["job"].str.isdigit().all() else table
    setting = [name for name in SETTINGS if name != "seed"] + ["n_features"]
    grouped = table.groupby(setting, sort=False)
    settings = grouped[list(SCORES)].mean().assign(seeds=grouped.size()).reset_index()
    of_jobs = table[["job", *setting]].merge(pd.concat(pairs)) if pairs else pd.DataFrame(columns=[*setting, *STABILITY])
    settings = settings.merge(of_jobs.groupby(setting)[list(STABILITY)].mean().reset_index(), how="left", on=setting)
    settings["front"] = on_front(settings)
    save_table(folder, "dictionaries", table)
    save_table(folder, "settings", settings)
    save_figure(folder, "frontier", figures.frontier(table, settings, caption), settings)
    return table, settings


def on_front(settings: pd.DataFrame) -> np.ndarray:
    """Return bool (n,): no other row is at least as good in every column of FRONT and better in one; NaN is never better."""
    values = settings[list(FRONT)].to_numpy(float) * np.array(list(FRONT.values()))
    known = ~np.isnan(values).all(axis=0)
    values = np.nan_to_num(values[:, known], nan=-np.inf)
    at_least = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return np.asarray(~(at_least & better).any(axis=0))


def _finished(folder: Path) -> Iterator[tuple[Path, dict[str, Any], dict[str, float]]]:
    """Yield (run folder, config.sae, metrics) of each job of a sweep that was scored on held-out cells."""
    for job, config, scores in scored_jobs(folder):
        if "sae_held/fvu" in scores:
            yield job, config["sae"], scores
