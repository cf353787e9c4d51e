"""What fits and scores share: the contrast's cells, their cached streams and their pooled codes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ..activations.extract import full_streams
from ..data.contrast import Split, split_contrast
from ..errors import SteerError
from ..evaluate.de import DEGenes, expressed_genes, pick_de_genes
from ..progress import track
from ..sae.model import TopKSAE
from ..steering.intervene import CachedCells
from ..store import Artefact
from .common import Context
from .extract import Activations, activations, layer_index, load_cells, load_steered_model
from .train_sae import Dictionary, check_dictionary, dictionary

VERSION = 1


@dataclass(frozen=True)
class Experiment:
    """One contrast on one dictionary.

    Source cells are counted in the order of `split.source`: the fit's cells first, held-out cells after them.

    Attributes
    ----------
    cached : streams of the source cells
    counts : float32 (n_source, G_valid) raw counts of the source cells' valid genes
    zbar, activity : float64 (n_source, F) mean code and mean |code| over a cell's valid gene tokens
    """

    context: Context
    activations: Activations
    dictionary: Dictionary
    split: Split
    streams: Artefact
    cached: CachedCells
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
    def has_head(self) -> bool:
        """Whether the model predicts expression: without it there is no expression geometry."""
        return self.activations.expression is not None

    @cached_property
    def expression(self) -> np.ndarray:
        """float32 (N, G_valid) predicted expression of every cell of the dataset."""
        found = self.activations.expression
        if found is None:
            raise SteerError("this checkpoint has no output head: take objective=latent and evaluate.objectives=[latent].")
        return np.asarray(found)

    @cached_property
    def de_genes(self) -> DEGenes:
        """The contrast's DE genes, chosen on the fit's cells."""
        source, target = self.expression[self.split.source_fit], self.expression[self.split.target_fit]
        expressed = expressed_genes(self.counts[self.fit_rows])
        return pick_de_genes(source, target, expressed, self.seen_genes, self.context.config.evaluate.n_genes)


def prepare(context: Context) -> Experiment:
    """Load an experiment, building what is missing: activations, dictionary, and the source cells' full streams."""
    config = context.config
    check_dictionary(config)
    source = activations(context, lambda obs: split_contrast(obs, config.contrast, config.dataset))
    split = split_contrast(source.obs, config.contrast, config.dataset)
    layer = layer_index(config)
    model = None

    def build(folder: Path) -> None:
        nonlocal model
        model = load_steered_model(config)
        cells = load_cells(config, model.genes)
        counts = cells.counts[split.source]
        batch = config.model.batch_size
        steps = track(full_streams(model, counts, layer, batch_size=batch), "streams", -(-counts.shape[0] // batch))
        shape = (counts.shape[0], model.n_genes + 2, model.arch.hidden_size)
        out = np.lib.format.open_memmap(folder / "streams.npy", mode="w+", dtype=np.float32, shape=shape)
        done = 0
        for stream in steps:
            out[done : done + len(stream)] = stream.float().cpu().numpy()
            done += len(stream)
        out.flush()
        np.save(folder / "counts.npy", counts[:, cells.valid].toarray())

    digest = hashlib.sha256(np.concatenate([split.source, [-1], split.source_held]).tobytes()).hexdigest()[:16]
    streams = context.store.get("streams", version=VERSION, config={"cells": digest}, parents=[source.artefact], build=build)
    trained = dictionary(context, source)
    model = model or load_steered_model(config)
    device = next(model.parameters()).device
    position = {gene: i for i, gene in enumerate(model.genes)}
    valid = torch.tensor([position[gene] for gene in source.genes], device=device)
    sae = trained.sae.to(device)
    cached = CachedCells(model, layer, np.load(streams.path / "streams.npy", mmap_mode="r"), valid)
    zbar, activity = pooled_codes(cached, sae, batch_size=config.model.batch_size)
    counts = np.load(streams.path / "counts.npy")
    return Experiment(context, source, trained, split, streams, cached, counts, zbar, activity)


def pooled_codes(cached: CachedCells, sae: TopKSAE, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean code and the mean |code| of each cell over its valid gene tokens, float64 (N, F)."""
    mean = np.zeros((len(cached), sae.n_features))
    size = np.zeros_like(mean)
    row = 0
    with torch.no_grad():
        for stream in cached.batches(np.arange(len(cached)), batch_size):
            codes = sae.encode(stream[:, cached.valid])
            for values, indices in zip(codes.values.double().cpu(), codes.indices.cpu(), strict=True):
                flat, n = indices.flatten().numpy(), len(values)
                mean[row] = np.bincount(flat, values.flatten().numpy(), sae.n_features) / n
                size[row] = np.bincount(flat, values.abs().flatten().numpy(), sae.n_features) / n
                row += 1
    return mean, size
