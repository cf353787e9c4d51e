"""What fits and scores share: the contrast's cells, their cached streams and their pooled codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..data.contrast import Split, split_contrast
from ..digest import array_digest
from ..errors import SteerError, unknown
from ..evaluate.de import DEGenes, expressed_genes, pick_de_genes
from ..models.base import n_ids
from ..sae.model import TopKSAE
from ..steering.contrast_streams import CellRows, CellStates, load_masked, readout_key, run_contrast
from ..steering.intervene import CachedCells
from ..steering.pooled import pooled_codes
from .activations import Activations, activations, layer_index, load_cells, load_steered_model
from .annotation import Annotated, annotation
from .artefact import Artefact, built
from .checkpoint import check_tokens
from .context import Context
from .dictionary import Dictionary, check_dictionary, dictionary, gene_centred
from .recurrence import feature_stability

VERSION = 3


class Sides(NamedTuple):
    """Rows of an experiment: cells that are steered, and cells that they are steered towards."""

    source: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Experiment:
    """One contrast on one dictionary.

    Its rows are the cells of `split.streamed`, in that order: the fit's source cells, its target cells (which a null may deal
    to the source), held-out source cells.

    Attributes
    ----------
    cached : streams of the rows
    layer, final : float32 (., D) embeddings of the contrast's cells, mean over valid genes, at the steered layer and
        after the final LayerNorm
    predicted : float32 (., G_valid) predicted log1p CP10K of the contrast's cells, None for a model without a head
    counts : float32 (n_rows, G_valid) raw counts of the valid genes
    zbar, activity : float64 (n_rows, F) mean code and mean |code| over a cell's valid gene tokens, of which those that are
        not steered count 0
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

    @cached_property
    def sae(self) -> TopKSAE:
        """The SAE of the steered tokens; that of all valid genes' is `dictionary.sae`."""
        return self.cached.sae_of(self.dictionary.sae)

    @cached_property
    def stability(self) -> tuple[Artefact, pd.DataFrame]:
        """How stable the dictionary's features are on the cells that a fit may see: every fit of a null asks for it."""
        return feature_stability(self.context, self.activations, self.dictionary, cells="fit")

    @cached_property
    def annotation(self) -> Annotated:
        """What the dictionary's features mean: every fit of a null asks which have a term."""
        return annotation(self.context)

    @property
    def genes(self) -> list[str]:
        """The valid genes' symbols."""
        return self.activations.genes

    @cached_property
    def cells(self) -> np.ndarray:
        """int64 (n_rows,): each row's position in the dataset."""
        return self.split.streamed

    @property
    def sides(self) -> Sides:
        """The rows of the fit."""
        n = len(self.split.source_fit)
        return Sides(np.arange(n), np.arange(n, n + len(self.split.target_fit)))

    @property
    def fit_rows(self) -> np.ndarray:
        """The rows of the fit's source cells."""
        return self.sides.source

    @property
    def held_rows(self) -> np.ndarray:
        """The rows of the held-out source cells."""
        return np.arange(len(self.cells) - len(self.split.source_held), len(self.cells))

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
    def states(self) -> CellStates:
        """The contrast's unsteered cells."""
        return CellStates(self.layer, self.final, self.predicted)

    @property
    def has_head(self) -> bool:
        """Whether the model predicts expression: without it there is no expression geometry."""
        return self.predicted is not None

    @property
    def expression(self) -> CellRows:
        """Predicted expression of the contrast's cells."""
        if self.predicted is None:
            raise SteerError("this checkpoint has no expression head: take objective=latent and evaluate.objectives=[latent].")
        return self.predicted

    @cached_property
    def de_genes(self) -> DEGenes:
        """The contrast's DE genes, chosen on the fit's cells."""
        return self.side_genes(self.sides)

    def side_genes(self, sides: Sides) -> DEGenes:
        """Return the DE genes between some rows of the fit."""
        source, target = (self.expression[self.cells[rows]] for rows in sides)
        expressed = expressed_genes(self.counts[sides.source])
        return pick_de_genes(source, target, expressed, self.seen_genes, self.context.config.evaluate.n_genes)


def prepare(context: Context, *, scored: bool = False, find: Callable[[pd.DataFrame], Split] | None = None) -> Experiment:
    """Load an experiment, building what is missing: activations, dictionary, and the contrast cells' way through the model.

    Parameters
    ----------
    scored : refuse, before anything is computed, a contrast with too few test cells to be scored
    find : says of obs which cells there are, in place of the configured contrast
    """
    config = context.config
    if config.model.tokens != "all":
        msg = "steering reads genes that are not expressed too: use model.tokens=all (expressed is for extract and train-sae)."
        raise SteerError(msg)
    check_dictionary(config)
    check_tokens(config)
    if config.objective.tokens == "all" and gene_centred(config):
        msg = "a gene-centred SAE has means of the dataset's genes alone: take objective.tokens=genes, or sae.centre=none."
        raise SteerError(msg)

    def contrast(obs: pd.DataFrame) -> Split:
        return split_contrast(obs, config.contrast, config.dataset, max_cells=config.model.contrast_cells, scored=scored)

    find = find or contrast
    source = activations(context, find)
    split = find(source.obs)
    layer = layer_index(config)
    model = None

    def build(folder: Path) -> None:
        nonlocal model
        model = load_steered_model(config)
        run_contrast(model, load_cells(config, model.genes), layer, split, folder, config.model)

    groups = (split.source_fit, split.source_held, split.target_fit, split.target_held)
    digest = array_digest(np.concatenate([part for cells in groups for part in (cells, [-1])]))
    settings = {"cells": digest, "layer": layer, **readout_key(config.model)}
    streams = built(context, "streams", build, version=VERSION, reads=settings, parents=[source.artefact])
    trained = dictionary(context, source)
    model = model or load_steered_model(config)
    device = next(model.parameters()).device
    position = {gene: i for i, gene in enumerate(model.genes)}
    valid = torch.tensor([position[gene] for gene in source.genes], device=device)
    sae = trained.sae.to(device)
    steered = steered_tokens(config.objective.tokens, source.genes, valid, n_ids(model))
    ids = streams.path / "token_genes.npy"
    arrays = np.load(streams.path / "streams.npy", mmap_mode="r"), valid, load_masked(streams.path), steered
    cached = CachedCells(model, layer, *arrays, genes=np.load(ids, mmap_mode="r") if ids.is_file() else None)

    def pool(folder: Path) -> None:
        # held-out cells in batches of their own: rounding depends on what else is in a batch
        rows = np.split(np.arange(len(split.streamed)), [len(split.source_fit) + len(split.target_fit)])
        parts = [pooled_codes(cached, cached.sae_of(sae), some, batch_size=config.model.batch_size) for some in rows]
        for name, codes in zip(("zbar", "activity"), zip(*parts, strict=True), strict=True):
            np.save(folder / f"{name}.npy", np.concatenate(codes))

    parents = [streams, trained.artefact]
    pooled = built(context, "codes", pool, version=2, reads={"tokens": config.objective.tokens}, parents=parents).path
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


def steered_tokens(tokens: str | list[str], genes: list[str], valid: torch.Tensor, n_tokens: int) -> torch.Tensor | None:
    """Return the ids (T,) of `objective.tokens`; None for the valid genes, whose ids are `valid`."""
    if tokens == "genes":
        return None
    if tokens == "all":
        return torch.arange(n_tokens, device=valid.device)
    column = {gene: i for i, gene in enumerate(genes)}
    for gene in tokens:
        if gene not in column:
            raise unknown("gene in objective.tokens", gene, genes)
    return valid[sorted({column[gene] for gene in tokens})]
