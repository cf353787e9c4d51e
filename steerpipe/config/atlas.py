"""Settings of `steer atlas`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SteerError
from .checks import positive


@dataclass
class AtlasConfig:
    """Do dictionaries generalise over tissues (group `atlas`)."""

    datasets: list[str] = field(default_factory=list)
    """tissues: choices of the group dataset, or files; of a file, dataset.label and dataset.layer are this command's"""
    split: str | None = None
    """obs column whose values are the tissues, of the one dataset of the command, in place of several datasets"""
    max_tissues: int = 6
    """values of atlas.split at the most, those with most cells first"""
    min_cells: int = 40
    """cells that a tissue needs, test cells included"""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """seeds of every tissue's dictionary: their spread is the noise of every score"""
    genes: str = "shared"
    """tokens that are scored: shared, of genes that all tissues have, or all of a tissue's own"""
    fidelity: bool = True
    """also splice every dictionary into the model on every tissue's cells (score.cells of each)"""
    pooled: bool = True
    """also train on all tissues together, on as many tokens as one tissue has, and on as many as all"""
    cells: int = 60
    """held-out cells of a tissue that features are compared and counted on, at the most"""
    n_permutations: int = 100
    """deals of the tissues' names among those cells: the null of specific features"""
    match_label: str | None = None
    """text that cell labels have: features by tissue again within these cells alone, say `T cell`"""
    carry: bool = True
    """also score recipes of one tissue on the cells of another, where both have the contrast's labels"""

    def __post_init__(self) -> None:
        positive("atlas", self, "max_tissues", "min_cells", "cells", "n_permutations")
        if self.genes not in ("shared", "all"):
            raise SteerError(f"atlas.genes={self.genes} is not allowed; choose from shared, all.")
        if self.split is None and len(self.datasets) == 1:
            raise SteerError(
                f"atlas.datasets={self.datasets} is one tissue: name two at least, or set atlas.split to an obs column."
            )
        if self.split is not None and self.datasets:
            raise SteerError("atlas.split divides the command's own dataset: leave atlas.datasets out, or atlas.split.")
        if len(set(self.seeds)) < 2:
            raise SteerError(f"atlas.seeds={self.seeds} must be two seeds at least: their spread is the noise.")
        twice = {name for name in self.datasets if self.datasets.count(name) > 1}
        if twice:
            raise SteerError(f"atlas.datasets names {sorted(twice)[0]} twice.")
