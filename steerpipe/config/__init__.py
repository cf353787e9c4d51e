"""Every setting of a run: one dataclass per config group, checked when it is made. Free of torch: checks take no time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .checks import NEEDED, one_of
from .dictionary import AnnotateConfig, FeatureConfig, SaeConfig, ScoreConfig
from .model import DatasetConfig, ExtractConfig, LayerConfig, ModelConfig
from .pretraining import PretrainConfig, Recipe
from .steering import FORMS, OBJECTIVES, READ_BY, ContrastConfig, EvaluateConfig, LambdaConfig, ObjectiveConfig
from .studies import DiagnoseConfig, ParetoConfig, RecipeConfig, StabilityConfig, Studies, TransferConfig

__all__ = [
    "EMBEDDED",
    "FORMS",
    "NEEDED",
    "OBJECTIVES",
    "READ_BY",
    "AnnotateConfig",
    "Config",
    "ContrastConfig",
    "DatasetConfig",
    "DiagnoseConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "FeatureConfig",
    "LambdaConfig",
    "LayerConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "ParetoConfig",
    "PretrainConfig",
    "Recipe",
    "RecipeConfig",
    "SaeConfig",
    "ScoreConfig",
    "StabilityConfig",
    "Studies",
    "TrackerConfig",
    "TransferConfig",
    "as_dict",
]

EMBEDDED = ("mini",)
"""The models inside the package: our own small networks, none of them AIDO.Cell."""


@dataclass
class TrackerConfig:
    """Where numbers go beside the run folder (group `tracker`)."""

    name: str = "jsonl"
    """jsonl: the run folder alone; trackio, wandb or mlflow as well, whose package must be installed"""
    project: str = "steerpipe"
    """the tracker's project (MLflow: experiment)"""
    uri: str | None = None
    """mlflow: server or file store (file:///shared/mlruns); null is MLflow's own choice"""

    def __post_init__(self) -> None:
        one_of("tracker.name", self.name, ("jsonl", "trackio", "wandb", "mlflow"))


@dataclass(kw_only=True)
class Config(Studies):
    """A whole run."""

    model: ModelConfig
    dataset: DatasetConfig
    layer: LayerConfig
    extract: ExtractConfig
    sae: SaeConfig
    annotate: AnnotateConfig
    feature: FeatureConfig
    contrast: ContrastConfig
    objective: ObjectiveConfig
    lam: LambdaConfig
    evaluate: EvaluateConfig
    score: ScoreConfig
    pretrain: PretrainConfig
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    seed: int = 0
    activations: str = "stored"
    device: str = "auto"
    threads: int | None = None
    reuse: str = "auto"
    outputs: str = "outputs"

    def __post_init__(self) -> None:
        one_of("activations", self.activations, ("stored", "online"))
        one_of("reuse", self.reuse, ("auto", "never", "only"))
        one_of("device", self.device.split(":")[0], ("auto", "cpu", "cuda", "mps"))


def as_dict(config: object) -> dict[str, Any]:
    """Return a config dataclass as plain data, for keys and manifests."""
    return asdict(config)  # type: ignore[call-overload,no-any-return]
