"""Settings of dictionaries: how they are trained, scored and annotated."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SteerError
from .checks import one_of, positive, share


@dataclass
class SaeConfig:
    """A TopK sparse autoencoder and how it is trained (group `sae`)."""

    path: str | None = None
    """a file to import instead of training: `sae=file`"""
    expansion: int = 8
    """features over model width"""
    k: int = 32
    """features active per token"""
    selection: str = "topk"
    """topk: k features of every token; batchtopk: of a batch as many, so that a token may have more or fewer"""
    activation: str = "identity"
    """identity (signed codes, as published) or relu, before TopK"""
    b_pre: bool = True
    """subtract the training tokens' geometric median before encoding (published: false)"""
    unit_norm: bool = True
    """keep decoder rows at length 1"""
    centre: str = "none"
    """none, or gene: each gene's mean stream is subtracted from its tokens, and codes are of the deviation from it"""
    auxk_weight: float = 1 / 32
    """weight of the auxiliary loss that revives dead features"""
    dead_after: int = 50_000
    """tokens without activity after which a feature counts as dead in training"""
    lr: float = 5e-3
    """peak learning rate of Adam, after a linear warm-up over the first twentieth of the steps"""
    decay: str = "linear"
    """linear: constant, then down to zero over the last fifth; cosine: down to zero from the peak on"""
    clip: float = 1.0
    """largest norm of a step's gradient. The loss is a share of the variance and most norms are near 0.02: 0.01 evens out
    nearly all steps, for a lower FVU and more dead features"""
    batch_size: int = 2048
    """tokens in a step"""
    tokens: int = 2_000_000
    """tokens to train on; passes over the data follow"""
    seed: int = 0
    """of the first weights and of the tokens' order"""
    members: int = 0
    """seeds whose features are pooled into a consensus (`sae=consensus`), seed * members and those after it; 0: one training"""
    support: float = 0.0
    """of a consensus: least share of its members that must have a feature; 0: the best supported, as many as a member has"""
    tune: float = 0.5
    """of a consensus: share of sae.tokens that the pooled features are trained on"""
    tune_lr: float = 0.1
    """of a consensus: peak learning rate then, as a share of sae.lr"""

    def __post_init__(self) -> None:
        if self.path == "":  # sae=file, and no file
            raise SteerError("sae.path is needed: add sae.path=topk_sae.pt to the command.")
        one_of("sae.activation", self.activation, ("identity", "relu"))
        one_of("sae.selection", self.selection, ("topk", "batchtopk"))
        one_of("sae.decay", self.decay, ("linear", "cosine"))
        one_of("sae.centre", self.centre, ("none", "gene"))
        if self.path is not None and self.centre != "none":
            raise SteerError("sae.centre is for training: leave it out, the file of sae.path says what it is itself.")
        positive("sae", self, "expansion", "k", "lr", "clip", "batch_size", "tokens", "dead_after", "tune", "tune_lr")
        if self.members < 0 or self.members == 1:
            raise SteerError(f"sae.members={self.members} must be 2 or more for a consensus, or 0 for one training.")
        if not 0 <= self.support <= 1:
            raise SteerError(f"sae.support={self.support} must lie in [0, 1].")


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
