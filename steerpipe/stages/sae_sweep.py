"""The table and the figures of a sweep over dictionaries; every job that ends writes them anew."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ..plot import dictionaries as figures
from ..run import save_figure, save_table

SETTINGS = ("expansion", "k", "selection", "seed", "lr", "tokens")
SCORES = ("fvu", "mse_uncentred", "l0", "dead", "rare")


def write_sweep(folder: Path, caption: str) -> pd.DataFrame:
    """Write dictionaries.csv and plots/frontier.* of the finished jobs in a sweep's folder.

    Returns
    -------
    DataFrame, one row a job: job, the settings, n_features, and the scores on held-out cells
    """
    rows = []
    for manifest in sorted(folder.glob("*/manifest.json")):
        metrics = manifest.parent / "metrics.json"
        if not metrics.is_file():
            continue
        sae, scores = json.loads(manifest.read_text())["config"]["sae"], json.loads(metrics.read_text())
        if "sae_held/fvu" not in scores:
            continue
        row = {"job": manifest.parent.name, **{name: sae[name] for name in SETTINGS}, "n_features": scores["sae/n_features"]}
        rows.append(row | {name: scores[f"sae_held/{name}"] for name in SCORES} | {"seconds": scores["sae/seconds"]})
    table = pd.DataFrame(rows)
    table = table.sort_values("job", key=lambda jobs: jobs.astype(int)) if table["job"].str.isdigit().all() else table
    save_table(folder, "dictionaries", table)
    save_figure(folder, "frontier", figures.frontier(table, caption), table)
    return table
