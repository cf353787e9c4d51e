"""Settings of how dictionaries are scored, compared and annotated."""

from __future__ import annotations

from dataclasses import dataclass, field

from .checks import positive, share
from .errors import SteerError


@dataclass
class ScoreConfig:
    """What `steer train-sae` scores beside the SAE itself (group `score`)."""

    baselines: bool = True
    """neurons, PCA, FastICA and a random SAE at the same layer and the same L0"""
    cells: int = 48
    """held-out cells at the most for the spliced-in fidelity, which runs the model above the layer; 0 leaves it out"""
    masked_share: float = 0.15
    """share of the genes that are masked for it"""

    def __post_init__(self) -> None:
        if self.cells < 0:
            raise SteerError(f"score.cells={self.cells} must be 0 or more.")
        if not 0 < self.masked_share < 1:
            raise SteerError(f"score.masked_share={self.masked_share} must lie strictly between 0 and 1.")


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
class AnnotateConfig:
    """What features mean, and beside which dictionaries (group `annotate`)."""

    library: str = "go_bp"
    """go_bp, go_bp_direct, hallmark, reactome, enrichr:NAME, or a path to a .gmt or .gmt.gz"""
    q: float = 0.05
    """a term counts below this q, over all (feature, set) pairs"""
    min_size: int = 5
    """genes in the background that a library's set needs"""
    max_size: int = 500
    """and may have"""
    min_genes: int = 10
    """a feature's gene set is its round(participation ratio) top genes, at least so many"""
    max_genes: int = 100
    """and at the most so many"""
    ochiai: float = 0.2
    """features are linked in the graph from this overlap of their gene sets on"""
    baselines: bool = True
    """also annotate neurons, PCA, FastICA and a random SAE at the same layer"""
    n_random: int = 5
    """draws of matched random gene sets, for the false-positive rate"""
    seed: int = 0

    def __post_init__(self) -> None:
        share("annotate", self, "q")
        positive("annotate", self, "min_size", "max_size", "min_genes", "max_genes", "ochiai", "n_random")
        for low, high in (("min_size", "max_size"), ("min_genes", "max_genes")):
            if getattr(self, low) > getattr(self, high):
                raise SteerError(f"annotate.{low} must not be more than annotate.{high}.")


@dataclass
class FeatureConfig:
    """One feature's card, and the search for features (group `feature`)."""

    id: int | None = None
    """the feature that `steer feature` shows"""
    find: str | None = None
    """text that `steer features` looks for in labels, terms, genes and cell types"""
    limit: int = 20
    """features listed at the most"""
    alphas: list[float] = field(default_factory=lambda: [float(alpha) for alpha in range(-5, 6)])
    """dose response: what the feature's code is multiplied by; 1 is no change"""
    cells: int = 16
    """cells of the type where it fires most that it is steered in"""
    n_random: int = 5
    """null features of like activity, and random directions of the same norm"""
    min_change: float = 0.05
    """a gene counts as moved when its mean predicted log1p CP10K changes by more, and paired t < 0.05 (Bonferroni)"""
    seed: int = 0

    def __post_init__(self) -> None:
        positive("feature", self, "limit", "cells", "n_random", "min_change")
