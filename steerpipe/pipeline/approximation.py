"""How far running a cell on its expressed genes alone strays from running all genes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ..activations.extract import expressed_streams, full_streams
from ..errors import SteerError
from ..models.aido_cell import AidoCell
from ..progress import track
from .activations import layer_index, load_cells, load_steered_model
from .context import Context


def deviations(context: Context) -> pd.DataFrame:
    """Return one row a cell, over its expressed valid genes.

    Columns: cell; genes (expressed ones); stream_cosine and stream_error (||a - b|| / ||b||, means over tokens) at the
    steered layer; embedding_error, ||mean a - mean b|| over the spread of the cells' embeddings (root mean squared
    distance from their mean); and, for a model with a head, expression_max and expression_mean (absolute, log1p CP10K),
    expression_r (Pearson, over genes).
    """
    config = context.config
    model = load_steered_model(config)
    if not isinstance(model, AidoCell):
        raise SteerError(f"{config.model.path} runs a cell's expressed genes as it was trained: there is nothing to check.")
    cells, layer = load_cells(config, model.genes), layer_index(config)
    n = min(config.extract.check_cells, cells.shape[0])
    chosen = np.sort(np.random.default_rng(config.seed).choice(cells.shape[0], n, replace=False))
    rows, embeddings, errors = [], [], []
    for cell in track(chosen, "check", n):
        counts = cells[cell : cell + 1]
        there, streams = expressed_streams(model, counts, cells.valid, [layer])
        approximate = streams[layer]
        exact = next(full_streams(model, counts, [layer], batch_size=1))[1][layer]
        read = torch.from_numpy(cells.valid[there]).to(exact.device)
        a, b = approximate[0, :-2].float(), exact[0, read].float()
        embeddings.append(b.mean(0))
        errors.append(float((a.mean(0) - b.mean(0)).norm()))
        row = {
            "cell": int(cell),
            "genes": len(there),
            "stream_cosine": float(torch.cosine_similarity(a, b, dim=1).mean()),
            "stream_error": float(((a - b).norm(dim=1) / b.norm(dim=1)).mean()),
        }
        if model.has_head:
            with torch.no_grad():
                y = model.forward_from(layer, approximate).expression
                z = model.forward_from(layer, exact, read).expression
            assert y is not None
            assert z is not None
            y, z = y[0, :-2].float(), z[0].float()
            row |= {
                "expression_max": float((y - z).abs().max()),
                "expression_mean": float((y - z).abs().mean()),
                "expression_r": float(torch.corrcoef(torch.stack([y, z]))[0, 1]),
            }
        rows.append(row)
    centred = torch.stack(embeddings) - torch.stack(embeddings).mean(0)
    spread = float(centred.square().sum(1).mean().sqrt())
    table = pd.DataFrame(rows)
    table.insert(4, "embedding_error", np.array(errors) / spread)
    return table
