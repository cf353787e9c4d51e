"""Settings of how dictionaries are scored and compared."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """sae.seed of each training"""
    threshold: float = 0.7
    """cosine above which a matched pair counts as the same feature"""
    gene_sets: bool = True
    """compare the features' gene sets too: one more pass over the tokens for each seed"""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise SteerError(f"stability.seeds={self.seeds} must be two or more seeds, each once.")
        if not 0 < self.threshold < 1:
            raise SteerError(f"stability.threshold={self.threshold} must lie strictly between 0 and 1.")
