"""`make bench-circuits`: seconds a source feature on cached streams, beside a whole forward pass from the counts an ablation.

The embedded model and data, held-out cells, layers 2, 3 and 4, and random dictionaries: neither the time nor the equality
depends on what they were trained on. Both ways encode layer 2 anew or once as they need it, read codes at 3 and 4 and
expression at the head, and take turns in one process, in CPU seconds of one thread. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerpipe.activations.extract import full_streams, model_inputs
from steerpipe.cli.hydra import compose
from steerpipe.data.split import fit_and_test
from steerpipe.models.aido_cell import AidoCell
from steerpipe.pipeline.activations import load_cells, load_steered_model
from steerpipe.sae.model import TopKSAE
from steerpipe.studies.circuits import ablation, edges
from steerpipe.studies.circuits.network import HEAD, LayerCodes, LayeredCells, Level, pool

LAYERS = (2, 3, 4)


def plain(model: AidoCell, network: LayeredCells, values: list[Tensor], source: int | None) -> dict[Level, np.ndarray]:
    """Run the cells from their counts through all blocks, with a feature of the first layer off, and read every level."""
    parts: dict[Level, list[Tensor]] = {level: [] for level in (*LAYERS[1:], HEAD)}
    with torch.no_grad():
        for batch in values:
            x = model.embed(batch)
            for i, block in enumerate(model.blocks):
                x = block(x)
                if i == LAYERS[0] and source is not None:
                    sae = network.saes[i]
                    codes = sae.encode(x[:, network.valid])
                    z = (codes.values * (codes.indices == source)).sum(-1)
                    x = x.index_add(1, network.valid, -z[..., None] * sae.W_dec[source])
                if i in parts:
                    n, sae = torch.full((len(x),), len(network.valid)), network.saes[i]
                    parts[i].append(pool(sae.encode(x[:, network.valid]), sae.n_features, n))
            parts[HEAD].append(model.predict(model.bert["encoder"]["ln"](x[:, network.valid])))
    return {level: torch.cat(some).numpy() for level, some in parts.items()}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--cells", type=int, default=8)
    words = parser.parse_args()
    torch.set_num_threads(1)
    config = compose("device=cpu")
    model = load_steered_model(config)
    counts = load_cells(config, model.genes)
    rows = counts[np.sort(fit_and_test(counts.obs, config.dataset)[1][: words.cells])]
    batch = config.model.batch_size
    streams = [some for _, some in full_streams(model, rows, LAYERS, batch_size=batch)]
    width = model.arch.hidden_size
    network = LayeredCells(
        model,
        {layer: torch.cat([some[layer] for some in streams]).numpy() for layer in LAYERS},
        {layer: TopKSAE(width, 8 * width, 32).initialise(layer).requires_grad_(False) for layer in LAYERS},
        torch.from_numpy(counts.valid),
        batch,
    )
    values = [tokens.values for tokens in model_inputs(model, rows, batch)]
    start = time.process_time()
    codes, clean = LayerCodes(network, LAYERS[0]), network.clean(LAYERS[0])
    once = time.process_time() - start
    before = plain(model, network, values, None)
    activity = codes.activity()
    sources = np.argsort(-activity.mean(0))[: words.sources]
    ours, theirs, worst, edge = [], [], 0.0, True
    for source in sources:
        trial = ablation.trials(network, LAYERS[0], int(source), activity, n_random=0, dose=False, seed=0)[0]
        start = time.process_time()
        found = ablation.respond(network, LAYERS[0], codes, trial, clean)
        ours.append(time.process_time() - start)
        start = time.process_time()
        after = plain(model, network, values, int(source))
        theirs.append(time.process_time() - start)
        for level, change in found.changes.items():
            other = (after[level] - before[level])[found.cells]
            worst = max(worst, float(np.abs(change - other).max()))
            sizes = [np.abs(edges.effects(some).effect) for some in (change, other)]
            cut = np.quantile(sizes[1], 0.99)
            edge = edge and bool(((sizes[0] > cut) == (sizes[1] > cut)).all())
    result: dict[str, Any] = {
        "cells": words.cells,
        "sources": words.sources,
        "cpu_seconds_a_source": median(ours),
        "plain_cpu_seconds_a_source": median(theirs),
        "ratio": median(theirs) / median(ours),
        "cpu_seconds_once": once,
        "largest_difference": worst,
        "same_edges": edge,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
