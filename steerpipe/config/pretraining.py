"""Settings of pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SteerError
from .checks import one_of


@dataclass
class Recipe:
    """How to pretrain."""

    steps: int = 7000
    """optimiser steps of the first phase; with `pretrain.start`, those that its model has had"""
    full_steps: int = 250
    """how many of them, at the end, see every gene of the panel instead of a context"""
    context: int = 224
    """genes in a training context"""
    long_context: int = 768
    """genes in the context of every eighth step, so that the model does not grow used to one length"""
    batch_size: int = 16
    """cells in a step"""
    full_batch_size: int = 4
    """cells in a step with a long context or with every gene"""
    lr: float = 2e-3
    """peak learning rate of AdamW; 300 steps of warm-up, then a cosine to 2 % of it"""
    weight_decay: float = 0.01
    max_masked: float = 0.5
    """the masked share of a context is uniform between 0 and this"""
    min_rate: float = 0.1
    """a cell is thinned to a share of its counts that is log-uniform between this and 1"""
    full_depth: float = 0.5
    """share of cells whose target is not thinned"""
    same_depth: float = 0.4
    """share of cells whose input is as deep as the target"""
    settle_steps: int = 1000
    """further steps, from the weights rounded to float16: half of them on every gene of the panel, half on long contexts"""
    settle_lr: float = 5e-4
    """peak learning rate of those; 30 steps of warm-up, then a cosine"""
    settle_shift: float = 2.0
    """while settling, most cells are seen as by another chemistry: each gene keeps exp(-s u) of its counts, u uniform by gene,
    s uniform by cell between 0 and this (log ratios of gene totals, PBMC3K over PBMC8K, have sd 0.58, which is 2 / sqrt 12)"""
    settle_visible: float = 2.0
    """while settling, weight of the error at visible genes, so that a shifted cell keeps what its own counts say"""
    finish_steps: int = 1500
    """last steps, from the weights rounded to float16 once more: as when settling, but every gene in each (no settling needs to
    go before)"""
    finish_lr: float = 5e-4
    """peak learning rate of those; 30 steps of warm-up, then a cosine"""
    finish_visible: float = 0.25
    """in those, weight of the error at visible genes, which is mostly counting noise"""
    settle_teachers: int = 2
    """networks, trained on such cells, whose mean prediction is the target while settling; before, one of plain cells"""
    teacher_steps: int = 2000
    """steps of each of the networks that lend their predictions as targets at masked genes"""
    teacher_weight: float = 0.9
    """weight of its prediction in those targets; the rest is the count itself"""
    small_panel: float = 0.35
    """share of cells that are seen through a smaller gene panel"""
    seed: int = 0

    @property
    def total_steps(self) -> int:
        """Steps of all three phases."""
        return self.steps + self.settle_steps + self.finish_steps

    def __post_init__(self) -> None:
        if not 0 <= self.full_steps <= self.steps:
            raise SteerError(f"pretrain.full_steps={self.full_steps} must lie between 0 and pretrain.steps={self.steps}.")


@dataclass
class PretrainConfig(Recipe):
    """How `steer pretrain` makes the embedded model (group `pretrain`)."""

    dataset: str = "pbmc8k"
    """what it is trained on: a dataset by name. Of the configured `dataset` it is what fits may see: no test cell, none of
    dataset.held"""
    path: str | None = None
    """for `h5ad`, a file other than the configured dataset's"""
    datasets: list[str] = field(default_factory=list)
    """several instead, by name or as h5ad files, each with an equal share of what is drawn and a panel chosen over all. Of each
    the test cells that dataset.test_share, split_seed and max_cells say stay out"""
    panel: str = "variable"
    """genes of the model: variable (pretrain.panel_size of the 19,264, see pretraining.panel), or all that the dataset has"""
    panel_size: int = 2048
    """genes of the model"""
    start: str | None = None
    """`mini` or a model folder that is trained on, in place of the first phase; its genes are then the panel"""
    minutes: float | None = None
    """stop cleanly after so long; the next run resumes (null: run to the end)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pretrain.panel", self.panel, ("variable", "all"))
        if self.datasets and self.path is not None:
            raise SteerError("pretrain.path is of one dataset: name the file in pretrain.datasets.")
        if self.datasets and self.panel == "all":
            raise SteerError("pretrain.panel=all is of one dataset: with pretrain.datasets take pretrain.panel=variable.")
        if self.start is not None and not self.settle_steps + self.finish_steps:
            raise SteerError(f"pretrain.start={self.start} leaves nothing to train; add pretrain=finish.")
