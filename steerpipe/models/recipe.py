"""The recipe of pretraining, free of torch so that a command line can be checked in no time."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SteerError


@dataclass
class Recipe:
    """How to pretrain."""

    steps: int = 4500
    """optimiser steps"""
    full_steps: int = 150
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
    small_panel: float = 0.35
    """share of cells that are seen through a smaller gene panel"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.full_steps <= self.steps:
            raise SteerError(f"pretrain.full_steps={self.full_steps} must lie between 0 and pretrain.steps={self.steps}.")
