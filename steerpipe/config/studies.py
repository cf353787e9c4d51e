"""Settings of the studies, which put many fits side by side, and the list of their groups."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SteerError
from .checks import one_of, positive, share

PARTS = ("cap", "floors", "path", "stability", "widths")


@dataclass
class StabilityConfig:
    """How `steer stability` compares trainings that differ in their seed alone (group `stability`)."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    """sae.seed of each training"""
    cells: int = 64
    """held-out cells at the most, over whose tokens the codes of two dictionaries are correlated"""
    threshold: float = 0.7
    """cosine above which a matched pair counts as the same feature"""
    gene_sets: bool = True
    """compare the features' gene sets too: one more pass over the tokens for each seed"""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise SteerError(f"stability.seeds={self.seeds} must be two or more seeds, each once.")
        if not 0 < self.threshold < 1:
            raise SteerError(f"stability.threshold={self.threshold} must lie strictly between 0 and 1.")
        positive("stability", self, "cells")


@dataclass
class DiagnoseConfig:
    """Why an objective recruits as many features as it does (group `diagnose`)."""

    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """cap: refits on the n strongest genes; floors: each feature's noise floors; path: counts over lambda; stability:
    refits on half of the cells; widths: wider dictionaries. A verdict per feature needs floors and stability"""
    top_n: list[int] = field(default_factory=lambda: [10, 25, 50, 100, 250, 500])
    """cap: genes of largest weight that the expression objective keeps; all genes come last"""
    n_permutations: int = 100
    """floors: times that each gene's counts are dealt out over the source cells anew"""
    permuted_cells: int = 4
    """floors: cells of each permutation that run through the lower blocks"""
    n_matched: int = 40
    """floors: random features of like activity that a recruited one is compared with"""
    percentile: float = 95.0
    """floors: of the permuted activities, and of the random features' effects"""
    ratios: list[float] = field(default_factory=lambda: [0.5, 0.3, 0.2, 0.1, 0.05, 0.03])
    """path: lambda ratios of the expression fits, largest first (the latent path is exact and always whole)"""
    n_refits: int = 50
    """stability: refits, each on half of the source and half of the target cells"""
    refit_cells: int = 12
    """stability: source cells of an expression refit at the most"""
    refit_steps: int = 10
    """stability: proximal steps of an expression refit at the most"""
    stable: float = 0.6
    """stability: share of the refits that must recruit a feature"""
    expansions: list[int] = field(default_factory=lambda: [16])
    """widths: further dictionaries, with the same k, beside the configured one"""

    def __post_init__(self) -> None:
        for part in self.parts:
            one_of("diagnose.parts", part, PARTS)
        counted = ("n_permutations", "permuted_cells", "n_matched", "n_refits", "refit_cells", "refit_steps")
        positive("diagnose", self, *counted)
        share("diagnose", self, "stable")
        if not 0 < self.percentile < 100:
            raise SteerError(f"diagnose.percentile={self.percentile} must lie strictly between 0 and 100.")
        if any(n < 1 for n in (*self.top_n, *self.expansions)):
            raise SteerError("diagnose.top_n and diagnose.expansions hold whole numbers of at least 1.")
        if any(not 0 < r < 1 for r in self.ratios):
            raise SteerError(f"diagnose.ratios={self.ratios} are shares of lambda_max, strictly between 0 and 1.")


@dataclass
class TransferConfig:
    """Whether a recipe fitted on some groups of cells steers others (group `transfer`)."""

    by: str | None = None
    """obs column of the groups, say cell types; null is dataset.label"""
    types: list[str] = field(default_factory=list)
    """groups to fit and to score; empty: the n_types with most cells"""
    n_types: int = 4
    """groups when `types` is empty"""
    min_cells: int = 20
    """cells that a group needs on either side"""
    n_random: int = 5
    """seeds of the random-feature control"""

    def __post_init__(self) -> None:
        positive("transfer", self, "n_types", "min_cells", "n_random")
        if len(self.types) == 1 or (not self.types and self.n_types < 2):
            raise SteerError("transfer needs two groups at least: name them in transfer.types, or raise transfer.n_types.")


@dataclass
class ParetoConfig:
    """What the mixed objective trades (group `pareto`)."""

    weights: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    """shares of the latent term, one fit each"""
    n_random: int = 5
    """seeds of the random-feature control"""

    def __post_init__(self) -> None:
        positive("pareto", self, "n_random")
        if not self.weights or any(not 0 <= w <= 1 for w in self.weights):
            raise SteerError(f"pareto.weights={self.weights} must lie in [0, 1].")


@dataclass(kw_only=True)
class Studies:
    """The groups of all studies. Hydra's schemas and its list of defaults follow from these fields.

    Where no choice is named, the group's `default.yaml` is taken, or the file that the field names.
    """

    stability: StabilityConfig = field(metadata={"choice": "seeds"})
    diagnose: DiagnoseConfig = field(metadata={"choice": "full"})
    transfer: TransferConfig
    pareto: ParetoConfig
