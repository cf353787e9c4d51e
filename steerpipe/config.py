"""Every setting of a run: one dataclass per config group, checked when it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .checks import label_words as _label_words
from .checks import one_of as _one_of
from .checks import positive as _positive
from .checks import share as _share
from .config_sae import AnnotateConfig, FeatureConfig, ScoreConfig, StabilityConfig
from .config_steering import EvaluateConfig, LambdaConfig, ObjectiveConfig
from .config_studies import CircuitsConfig, DiagnoseConfig, ParetoConfig, TransferConfig
from .errors import SteerError
from .models.recipe import Recipe

NEEDED = "???"
"""A value that the command line must give (OmegaConf's mark of a missing one)."""

EMBEDDED = ("mini",)
"""The models inside the package: our own small networks, none of them AIDO.Cell."""


@dataclass
class ModelConfig:
    """A foundation model (group `model`)."""

    path: str = NEEDED
    """`mini`, a folder with config.json and weights, or a hub id (owner/name); a folder wins over a hub id"""
    revision: str | None = None
    """commit, tag or branch of a hub id (null: main); a folder has none"""
    steering_layer: int = 4
    """the layer that `layer=steering` stands for, 0-based"""
    circuit_layers: list[int] = field(default_factory=lambda: [2, 3, 4])
    """the layers that `steer circuits` goes through, 0-based"""
    batch_size: int = 8
    """cells that run through the model at once; memory grows with it"""
    tokens: str = "all"
    """all genes, as trained; expressed: a cell's expressed genes alone, an approximation (`steer check-approximation`)"""
    depth_target: float | None = None
    """total count that predictions are asked for; null is the model's own rule"""
    readout: str = "reconstruction"
    """predicted expression from unmasked cells, or masked: each group of genes is predicted with that group masked"""
    masked_share: float = 0.15
    """masked: share of the genes in a group; streams and passes grow by 1 / share"""
    contrast_cells: int | None = None
    """cells of each side of a contrast at the most: whole streams are kept, (G + 2) * D * 4 bytes each, of all but the
    held-out target cells"""

    def __post_init__(self) -> None:
        _one_of("model.tokens", self.tokens, ("all", "expressed"))
        _one_of("model.readout", self.readout, ("reconstruction", "masked"))
        _share("model", self, "masked_share")
        _positive("model", self, "steering_layer", "batch_size", "depth_target", "contrast_cells")


@dataclass
class DatasetConfig:
    """A dataset of raw counts (group `dataset`)."""

    name: str = "pbmc68k_reduced"
    """a dataset that steerpipe knows, or `h5ad` for any file"""
    path: str | None = None
    """for `h5ad`: the .h5ad file, or the .zarr folder"""
    label: str | None = None
    """obs column of cell labels"""
    batch: str | None = None
    """obs column of batch or donor, to stratify the test cells by"""
    test_share: float = 0.3
    """share of the cells that no dictionary and no recipe is fitted on, and that everything is scored on; 0 for none"""
    split_seed: int = 0
    """of which cells those are"""
    test: str | None = None
    """obs column that marks the test cells (true/false or test/train), instead of test_share"""
    layer: str | None = None
    """where the raw counts are: an AnnData layer, or raw; null is X"""
    gene_column: str | None = None
    """column of var with the gene symbols or Ensembl ids, or index; null: the one that matches most of the model's genes"""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """names for sets of labels, for use in `contrast`"""
    aliases: bool = True
    """match genes through the alias map and by Ensembl id too"""
    duplicates: str = "sum"
    """several columns of one gene: sum, or refuse"""
    max_cells: int | None = None
    """keep at most so many cells, drawn at random with seed 0"""

    def __post_init__(self) -> None:
        _positive("dataset", self, "max_cells")
        for name, labels in self.groups.items():
            words = _label_words(f"dataset.groups.{name}", labels)
            self.groups[name] = [words] if isinstance(words, str) else words or []
        if not 0 <= self.test_share < 1:
            raise SteerError(f"dataset.test_share={self.test_share} must lie in [0, 1).")
        _one_of("dataset.duplicates", self.duplicates, ("sum", "refuse"))
        if self.name == "h5ad" and self.path is None:
            raise SteerError("dataset.path is needed: add dataset.path=my.h5ad dataset.label=cell_type to the command.")


@dataclass
class LayerConfig:
    """Where the residual stream is read and steered (group `layer`)."""

    index: int = 4
    """0-based block whose output it is; -1 is the last block"""


@dataclass
class ExtractConfig:
    """How activations are stored (group `extract`)."""

    tokens: str = "auto"
    """gene tokens of a cell that are stored: valid (all that the dataset has), expressed, sample (n_tokens valid ones), or
    auto: valid where max_bytes holds it, else a sample"""
    n_tokens: int = 512
    """for sample: tokens of a cell"""
    max_bytes: float = 20e9
    """for auto: disk that the stored tokens may take"""
    seed: int = 0
    """of the sample"""
    layers: list[int] = field(default_factory=list)
    """further layers stored in the same pass; a later run at one of them reuses it"""
    dtype: str = "float16"
    """float16 (a shard beyond its range keeps float32), bfloat16 or float32"""
    shard_tokens: int = 131_072
    """gene tokens in a shard file"""
    parts: int = 1
    """processes or machines that share the work: part=0,1,... of so many, then the same command without part joins them"""
    part: int | None = None
    """which of them this is"""
    plan: bool = False
    """print what extraction would cost, and stop"""
    plan_of: str | None = None
    """the command whose nulls are planned as well; set by its --plan"""
    check_cells: int = 8
    """cells that `steer check-approximation` looks at"""

    def __post_init__(self) -> None:
        _one_of("extract.dtype", self.dtype, ("float16", "bfloat16", "float32"))
        _one_of("extract.tokens", self.tokens, ("auto", "valid", "expressed", "sample"))
        _positive("extract", self, "shard_tokens", "n_tokens", "max_bytes", "parts", "check_cells")
        if self.part is not None and not 0 <= self.part < self.parts:
            raise SteerError(f"extract.part={self.part} must lie between 0 and extract.parts-1={self.parts - 1}.")


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
        _one_of("sae.activation", self.activation, ("identity", "relu"))
        _one_of("sae.selection", self.selection, ("topk", "batchtopk"))
        _one_of("sae.decay", self.decay, ("linear", "cosine"))
        _one_of("sae.centre", self.centre, ("none", "gene"))
        if self.path is not None and self.centre != "none":
            raise SteerError("sae.centre is for training: leave it out, the file of sae.path says what it is itself.")
        _positive("sae", self, "expansion", "k", "lr", "clip", "batch_size", "tokens", "dead_after", "tune", "tune_lr")
        if self.members < 0 or self.members == 1:
            raise SteerError(f"sae.members={self.members} must be 2 or more for a consensus, or 0 for one training.")
        if not 0 <= self.support <= 1:
            raise SteerError(f"sae.support={self.support} must lie in [0, 1].")


@dataclass
class ContrastConfig:
    """Which cells are steered, and towards which (group `contrast`)."""

    source: Any = NEEDED
    """a name in dataset.groups, a label (text, a number, true or false), or a list of labels"""
    target: Any = NEEDED
    """likewise"""
    column: str | None = None
    """obs column of the labels; null is dataset.label"""
    halves: bool = False
    """deal the cells of source at random between source and target: a contrast without a difference, target is null"""
    seed: int = 0
    """of the halves, and of which cells model.contrast_cells keeps"""

    def __post_init__(self) -> None:
        self.source, self.target = (_label_words(f"contrast.{name}", getattr(self, name)) for name in ("source", "target"))
        if self.halves and self.target not in (None, self.source):
            raise SteerError(f"contrast.halves deals out contrast.source alone: contrast.target={self.target} must be null.")
        if self.source is None or (self.target is None and not self.halves):
            name = "source" if self.source is None else "target"
            raise SteerError(f"contrast.{name} is needed: add contrast.{name}=... to the command, or contrast=no_difference.")


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
        _one_of("tracker.name", self.name, ("jsonl", "trackio", "wandb", "mlflow"))


@dataclass
class PretrainConfig(Recipe):
    """How `steer pretrain` makes the embedded model (group `pretrain`)."""

    dataset: str = "pbmc8k"
    """what it is trained on"""
    panel_size: int = 2048
    """genes of the model"""
    start: str | None = None
    """`mini` or a model folder that is trained on, in place of the first phase; its genes are then the panel"""
    minutes: float | None = None
    """stop cleanly after so long; the next run resumes (null: run to the end)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and not self.settle_steps + self.finish_steps:
            raise SteerError(f"pretrain.start={self.start} leaves nothing to train; add pretrain=finish.")


@dataclass
class Config:
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
    stability: StabilityConfig
    pretrain: PretrainConfig
    diagnose: DiagnoseConfig
    transfer: TransferConfig
    pareto: ParetoConfig
    circuits: CircuitsConfig
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    seed: int = 0
    activations: str = "stored"
    device: str = "auto"
    threads: int | None = None
    reuse: str = "auto"
    outputs: str = "outputs"

    def __post_init__(self) -> None:
        _one_of("activations", self.activations, ("stored", "online"))
        _one_of("reuse", self.reuse, ("auto", "never", "only"))
        _one_of("device", self.device.split(":")[0], ("auto", "cpu", "cuda", "mps"))


def as_dict(config: object) -> dict[str, Any]:
    """Return a config dataclass as plain data, for keys and manifests."""
    return asdict(config)  # type: ignore[call-overload,no-any-return]
