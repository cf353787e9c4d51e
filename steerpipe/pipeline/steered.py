"""A recipe on every cell of the dataset: what the model says of each before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ..config import Config
from ..models.base import n_ids
from ..progress import track
from ..sae.centred import for_genes
from ..sae.model import TopKSAE
from ..steering.contrast_streams import cache_cells
from ..steering.intervene import CachedCells, Edit, State, recipe_edit, run_edit
from .activations import layer_index, load_cells, load_steered_model
from .checkpoint import check_tokens
from .context import Context
from .experiment import steered_tokens

CHUNK = 16
"""Cells whose streams are held at once."""


class Steered(NamedTuple):
    """Every cell as it is, and after a recipe; genes: the G_valid symbols of State.expression, none without an output head."""

    before: State
    after: State
    genes: list[str]


def steered(context: Context, sae: TopKSAE, theta: np.ndarray) -> Steered:
    """Return every cell of the dataset before and after a recipe theta (F,); its mode and tokens are the configured ones.

    Nothing is stored. Cost: one pass of each cell through the model, and one more of the blocks above the layer; memory of
    CHUNK cells' streams.
    """
    config, model = context.config, load_steered_model(context.config)
    cells, layer = load_cells(config, model.genes), layer_index(config)
    genes = [model.genes[i] for i in cells.valid]
    device = next(model.parameters()).device
    valid = torch.from_numpy(cells.valid).to(device)
    check_tokens(config)
    tokens = steered_tokens(config.objective.tokens, genes, valid, n_ids(model))
    edit = _edit_of(config, for_genes(sae, genes, "given").to(device), theta)
    found: list[tuple[State, State]] = []
    starts = range(0, cells.shape[0], CHUNK)
    for start in track(starts, "steer", len(starts)):
        batch = config.model.batch_size
        cached = cache_cells(model, cells[start : start + CHUNK], layer, valid, batch_size=batch, steered=tokens)
        rows = np.arange(len(cached))
        found.append((run_edit(cached, rows, None, batch_size=batch), run_edit(cached, rows, edit(cached), batch_size=batch)))
    before, after = (State(*map(np.concatenate, zip(*states, strict=True))) for states in zip(*found, strict=True))
    return Steered(before, after, genes if model.predicts else [])


def _edit_of(config: Config, sae: TopKSAE, theta: np.ndarray) -> Callable[[CachedCells], Edit]:
    values = torch.as_tensor(theta, dtype=torch.float32, device=sae.W_dec.device)
    return lambda cached: recipe_edit(cached.sae_of(sae), values, config.objective.mode)
