"""What fits and scores share: the contrast's cells, their cached streams and their pooled codes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..data.contrast import Split, split_contrast
from ..errors import SteerError, unknown
from ..evaluate.de import DEGenes, expressed_genes, pick_de_genes
from ..sae.model import TopKSAE
from ..steering.intervene import CachedCells
from ..store import Artefact
from .common import Context
from .contrast_cells import CellRows, load_masked, readout_key, run_contrast
from .dictionary import Dictionary, check_dictionary, dictionary
from .extract import Activations, activations, layer_index, load_cells, load_steered_model

VERSION = 2


@dataclass(frozen=True)
class Experiment:
    """One contrast on one dictionary.

    Source cells are counted in the order of `split.source`: the fit's cells first, held-out cells after them.

    Attributes
    ----------
    cached : streams of the source cells
    layer, final : float32 (., D) embeddings of the contrast's cells, mean over valid genes, at the steered layer and
        after the final LayerNorm
    predicted : float32 (., G_valid) predicted log1p CP10K of the contrast's cells, None for a model without a head
    counts : float32 (n_source, G_valid) raw counts of the source cells' valid genes
    zbar, activity : float64 (n_source, F) mean code and mean |code| over a cell's valid gene tokens, of which those that
        are not steered count 0
    """

    context: Context
    activations: Activations
    dictionary: Dictionary
    split: Split
    streams: Artefact
    cached: CachedCells
    layer: CellRows
    final: CellRows
    predicted: CellRows | None
    counts: np.ndarray
    zbar: np.ndarray
    activity: np.ndarray

    @property
    def sae(self) -> TopKSAE:
        return self.dictionary.sae

    @property
    def genes(self) -> list[str]:
        """The valid genes' symbols."""
        return self.activations.genes

    @property
    def fit_rows(self) -> np.ndarray:
        """Positions of the fit's cells among the source cells."""
        return np.arange(len(self.split.source_fit))

    @property
    def held_rows(self) -> np.ndarray:
        """Positions of the held-out cells among the source cells."""
        return np.arange(len(self.split.source_fit), len(self.split.source))

    @cached_property
    def active(self) -> np.ndarray:
        """bool (F,): features that fire in a source cell of the fit."""
        return np.asarray((self.activity[self.fit_rows] > 0).any(axis=0))

    @cached_property
    def seen_genes(self) -> np.ndarray:
        """bool (G_valid,): the random share of genes that the expression objective may look at."""
        rng = np.random.default_rng([self.context.config.seed, 1])
        n = len(self.genes)
        seen = np.zeros(n, bool)
        seen[rng.permutation(n)[: round(self.context.config.objective.seen_genes * n)]] = True
        return seen

    @property
    def token_share(self) -> float:
        """Share of the valid genes whose tokens are steered."""
        return float(self.cached.pooled.sum()) / len(self.cached.valid)

    @property
    def has_head(self) -> bool:
        """Whether the model predicts expression: without it there is no expression geometry."""
        return self.predicted is not None

    @property
    def expression(self) -> CellRows:
        """Predicted expression of the contrast's cells."""
        if self.predicted is None:
            raise SteerError("this checkpoint has no output head: take objective=latent and evaluate.objectives=[latent].")
        return self.predicted

    @cached_property
    def de_genes(self) -> DEGenes:
        """The contrast's DE genes, chosen on the fit's cells."""
        source, target = self.expression[self.split.source_fit], self.expression[self.split.target_fit]
        expressed = expressed_genes(self.counts[self.fit_rows])
        return pick_de_genes(source, target, expressed, self.seen_genes, self.context.config.evaluate.n_genes)


def prepare(context: Context) -> Experiment:
    """Load an experiment, building what is missing: activations, dictionary, and the contrast cells' way through the model."""
    config = context.config
    if config.model.tokens != "all":
        msg = "steering reads genes that are not expressed too: use model.tokens=all (expressed is for extract and train-sae)."
        raise SteerError(msg)
    check_dictionary(config)
    cap = config.model.source_cells
    source = activations(context, lambda obs: split_contrast(obs, config.contrast, config.dataset))
    split = split_contrast(source.obs, config.contrast, config.dataset, max_source=cap)
    layer = layer_index(config)
    model = None

    def build(folder: Path) -> None:
        nonlocal model
        model = load_steered_model(config)
        run_contrast(model, load_cells(config, model.genes), layer, split, folder, config.model)

    digest = hashlib.sha256(np.concatenate([split.source, [-1], split.source_held, [-1], split.target]).tobytes()).hexdigest()[
        :16
    ]
    settings = {"cells": digest, "layer": layer, **readout_key(config.model)}
    streams = context.store.get("streams", version=VERSION, config=settings, parents=[source.artefact], build=build)
    trained = dictionary(context, source)
    model = model or load_steered_model(config)
    device = next(model.parameters()).device
    position = {gene: i for i, gene in enumerate(model.genes)}
    valid = torch.tensor([position[gene] for gene in source.genes], device=device)
    sae = trained.sae.to(device)
    steered = steered_tokens(config.objective.tokens, source.genes, valid, model.n_genes + 2)
    arrays = np.load(streams.path / "streams.npy", mmap_mode="r"), valid, load_masked(streams.path), steered
    cached = CachedCells(model, layer, *arrays)

    def pool(folder: Path) -> None:
        for name, codes in zip(
            ("zbar", "activity"), pooled_codes(cached, sae, batch_size=config.model.batch_size), strict=True
        ):
            np.save(folder / f"{name}.npy", codes)

    parents = [streams, trained.artefact]
    pooled = context.store.get("codes", version=1, config={"tokens": config.objective.tokens}, parents=parents, build=pool).path
    counts = np.load(streams.path / "counts.npy")
    cells = np.load(streams.path / "cells.npy")
    embeddings = {name: CellRows(cells, np.load(streams.path / f"{name}.npy", mmap_mode="r")) for name in ("layer", "final")}
    file = streams.path / "expression.npy"
    predicted = CellRows(cells, np.load(file, mmap_mode="r")) if file.is_file() else None
    return Experiment(
        context,
        source,
        trained,
        split,
        streams,
        cached,
        **embeddings,
        predicted=predicted,
        counts=counts,
        zbar=np.load(pooled / "zbar.npy"),
        activity=np.load(pooled / "activity.npy"),
    )


def steered_tokens(tokens: str | list[str], genes: list[str], valid: torch.Tensor, n_positions: int) -> torch.Tensor | None:
    """Return the positions (T,) of `objective.tokens`; None for the valid genes, whose positions are `valid`."""
    if tokens == "genes":
        return None
    if tokens == "all":
        return torch.arange(n_positions, device=valid.device)
    column = {gene: i for i, gene in enumerate(genes)}
    for gene in tokens:
        if gene not in column:
            raise unknown("gene in objective.tokens", gene, genes)
    return valid[sorted({column[gene] for gene in tokens})]


def pooled_codes(cached: CachedCells, sae: TopKSAE, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of codes and of |codes| over a cell's steered gene tokens, over its valid genes, float64 (N, F)."""
    mean = np.zeros((len(cached), sae.n_features))
    size = np.zeros_like(mean)
    row, n = 0, len(cached.valid)
    tokens = cached.tokens[cached.pooled]
    with torch.no_grad():
        for stream in cached.batches(np.arange(len(cached)), batch_size):
            codes = sae.encode(stream[:, tokens])
            for values, indices in zip(codes.values.double().cpu(), codes.indices.cpu(), strict=True):
                flat = indices.flatten().numpy()
                mean[row] = np.bincount(flat, values.flatten().numpy(), sae.n_features) / n
                size[row] = np.bincount(flat, values.abs().flatten().numpy(), sae.n_features) / n
                row += 1
    return mean, size
