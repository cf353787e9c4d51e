"""Settings of `steer adapter`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SteerError
from .checks import one_of, positive

NETWORKS = ("linear", "mlp", "lista")
FEATURES = ("embedding", "go", "regulons", "expression")


@dataclass
class AdapterConfig:
    """Networks from a target state, or from a perturbation's name, to a sparse recipe (group `adapter`)."""

    task: str = "inverse"
    """inverse: from a source and a target state, beside the exact lasso; perturbation: from a perturbation's name"""
    networks: list[str] = field(default_factory=lambda: list(NETWORKS))
    """linear; mlp, two hidden layers; lista, unrolled proximal steps on the known Gram matrix"""
    hidden: int = 256
    """units of a hidden layer"""
    unrolled: int = 16
    """steps that lista unrolls"""
    steps: int = 800
    """AdamW steps of a training"""
    batch: int = 64
    """tasks a step, drawn anew each"""
    lr: float = 3e-3
    """largest learning rate; a cosine takes it to 0"""
    weight_decay: float = 1e-2
    """of the weight matrices; lista's step sizes and thresholds have none"""
    through: str = "layer"
    """inverse: the loss is the latent objective in closed form (layer), or, after that, `model_steps` on expression (model)"""
    model_steps: int = 30
    """gradients through the model a training with adapter.through=model"""
    folds: int = 5
    """labels, perturbations or cell types are dealt into so many parts; each is scored by adapters that never saw it"""
    labels: list[str] = field(default_factory=list)
    """inverse: labels of dataset.label; empty: those with most cells"""
    max_labels: int = 8
    """inverse: labels when none are named"""
    min_cells: int = 20
    """cells that a label or a perturbation needs, test cells included"""
    max_cells: int = 60
    """cells of a label or perturbation at the most; of the control four times"""
    held_cells: int = 24
    """held-out source cells that are scored, at the most"""
    scored_pairs: int = 6
    """inverse: pairs whose recipes also run through the model, for the headline scores of every space"""
    n_permutations: int = 100
    """inverse: deals of a pair's cells between its sides, each given to the adapter anew: the null"""
    split: str = "perturbation"
    """perturbation: leave perturbations out; combination: leave doubles out; cell_type: leave labels of dataset.label out"""
    max_perturbations: int = 40
    """perturbations at the most, those with most cells first"""
    features: list[str] = field(default_factory=lambda: list(FEATURES))
    """of a perturbed gene: the model's own gene embedding, GO terms (SVD), regulons that it is in (SVD), mean in controls"""
    components: int = 50
    """components of GO terms, and of regulons"""
    regulons: str | None = None
    """a CSV of source,target,weight, or collectri; null leaves regulons out"""
    neighbours: int = 3
    """training perturbations that kNN averages"""
    n_shuffled: int = 19
    """trainings with the targets dealt among the training perturbations: the null of every network"""

    def __post_init__(self) -> None:
        one_of("adapter.task", self.task, ("inverse", "perturbation"))
        one_of("adapter.through", self.through, ("layer", "model"))
        one_of("adapter.split", self.split, ("perturbation", "combination", "cell_type"))
        for name in self.networks:
            one_of("adapter.networks", name, NETWORKS)
        for name in self.features:
            one_of("adapter.features", name, FEATURES)
        if not self.networks:
            raise SteerError(f"adapter.networks is empty; allowed: {', '.join(NETWORKS)}.")
        counts = (
            "hidden",
            "unrolled",
            "steps",
            "batch",
            "lr",
            "model_steps",
            "max_labels",
            "min_cells",
            "max_cells",
            "held_cells",
        )
        positive("adapter", self, *counts, "n_permutations", "max_perturbations", "components", "neighbours", "n_shuffled")
        if self.folds < 2:
            raise SteerError(f"adapter.folds={self.folds} must be 2 or more: what is scored was never trained on.")
        if self.through == "model" and self.task != "inverse":
            raise SteerError("adapter.through=model is for adapter=inverse; adapter=perturbation trains at the layer.")
