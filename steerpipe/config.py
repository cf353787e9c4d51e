"""Every setting of a run: one dataclass per config group, checked when it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .checks import one_of as _one_of
from .checks import positive as _positive
from .checks import share as _share
from .config_sae import AnnotateConfig, FeatureConfig, ScoreConfig, StabilityConfig
from .config_studies import DiagnoseConfig, ParetoConfig, TransferConfig
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
    source_cells: int | None = None
    """source cells of a contrast at the most: their whole streams are kept, (G + 2) * D * 4 bytes each"""

    def __post_init__(self) -> None:
        _one_of("model.tokens", self.tokens, ("all", "expressed"))
        _one_of("model.readout", self.readout, ("reconstruction", "masked"))
        _share("model", self, "masked_share")
        _positive("model", self, "steering_layer", "batch_size", "depth_target", "source_cells")


@dataclass
class DatasetConfig:
    """A dataset of raw counts (group `dataset`)."""

    name: str = "pbmc68k_reduced"
    """a dataset that steerpipe knows, or `h5ad` for any file"""
    path: str | None = None
    """for `h5ad`: the file"""
    label: str | None = None
    """obs column of cell labels"""
    batch: str | None = None
    """obs column of batch or donor, to stratify the held-out split by"""
    layer: str | None = None
    """AnnData layer that has the raw counts; null is X"""
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
    """a file to import instead of training (then only held_out and split_seed are read, to score it): `sae=file`"""
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
    held_out: float = 0.1
    """share of cells that is never trained on"""
    split_seed: int = 0
    """of that split: dictionaries of several seeds are scored on the same cells"""
    seed: int = 0
    """of the first weights and of the tokens' order"""

    def __post_init__(self) -> None:
        if self.path == "":  # sae=file, and no file
            raise SteerError("sae.path is needed: add sae.path=topk_sae.pt to the command.")
        _one_of("sae.activation", self.activation, ("identity", "relu"))
        _one_of("sae.selection", self.selection, ("topk", "batchtopk"))
        _one_of("sae.decay", self.decay, ("linear", "cosine"))
        _positive("sae", self, "expansion", "k", "lr", "clip", "batch_size", "tokens", "dead_after")
        _share("sae", self, "held_out")


@dataclass
class ContrastConfig:
    """Which cells are steered, and towards which (group `contrast`)."""

    source: Any = NEEDED
    """a name in dataset.groups, a label, or a list of labels"""
    target: Any = NEEDED
    """likewise"""
    column: str | None = None
    """obs column of the labels; null is dataset.label"""
    held_out: float = 0.3
    """share of source and of target cells that the fit never sees"""
    seed: int = 0

    def __post_init__(self) -> None:
        _share("contrast", self, "held_out")


OBJECTIVES = ("latent", "latent_final", "expression", "mixed")


@dataclass
class ObjectiveConfig:
    """What the steering vector minimises, and how it acts (group `objective`)."""

    name: str = "latent"
    """latent: squared distance of the pooled stream to the target's, at the steered layer; latent_final: distance after the
    final LayerNorm; expression: of the predicted expression; mixed: latent and expression, each over its value unsteered"""
    mode: str = "multiply"
    """multiply: codes are scaled by 1 + theta; add: theta_f times decoder row f is added, wherever f is silent too; clamp:
    codes are set to a value, the same at every steered token (latent only: support of multiply, values by least squares)"""
    tokens: Any = "genes"
    """genes: steer every gene that the dataset has; all: every token, depth tokens too, as the published code; or a list of
    gene symbols"""
    learnable: str = "active"
    """active: features that fire in a source cell; annotated: those of them with a term at q < annotate.q; all"""
    solver: str = "exact"
    """latent: exact, with a duality gap; or adam, the published way: 500 steps on an L1 subgradient, small values reset"""
    refit: bool = False
    """also least squares on the recipe's support, without the penalty: free of its shrinkage, scored beside the recipe"""
    weight: float = 0.5
    """mixed: share of the latent term; a sweep over it is the Pareto curve"""
    top_n: int | None = None
    """expression: only the n genes of largest weight (the top-n DEG cap); null is all"""
    seen_genes: float = 0.5
    """expression: share of genes that the fit may look at; the scores on the others are the honest ones"""
    max_cells: int = 24
    """through the model: source cells in the fit at the most (the latent fit always takes all of them)"""
    max_steps: int = 30
    """through the model: proximal steps at one lambda, at the most"""
    tolerance: float = 0.05
    """through the model: stop when the prox-gradient norm is below this share of the one at theta = 0"""

    def __post_init__(self) -> None:
        _one_of("objective.name", self.name, OBJECTIVES)
        _one_of("objective.mode", self.mode, ("multiply", "add", "clamp"))
        _one_of("objective.learnable", self.learnable, ("active", "annotated", "all"))
        _one_of("objective.solver", self.solver, ("exact", "adam"))
        _positive("objective", self, "top_n", "max_cells", "max_steps", "tolerance")
        if isinstance(self.tokens, str):
            _one_of("objective.tokens", self.tokens, ("genes", "all", "a list of genes, as in [CD8A,CD8B]"))
        elif not self.tokens:
            raise SteerError("objective.tokens=[] steers nothing; allowed: genes, all, or a list of genes.")
        if not 0 < self.seen_genes <= 1:
            raise SteerError(f"objective.seen_genes={self.seen_genes} must lie in (0, 1].")
        if self.mode == "clamp" and self.name != "latent":
            msg = f"objective.mode=clamp is fitted for objective=latent, not {self.name}: take multiply or add, or only latent."
            raise SteerError(msg)
        if not 0 <= self.weight <= 1:
            raise SteerError(f"objective.weight={self.weight} must lie in [0, 1].")


@dataclass
class LambdaConfig:
    """The weight of the L1 penalty (group `lambda`)."""

    mode: str = "ratio"
    """absolute: value is the weight; ratio: value is a share of lambda_max; path: down to that share"""
    value: float = 0.05
    """the weight, or the share"""
    n_path: int = 30
    """latent: points of the geometric path, always computed; through the model its points are lambda_max / 3^k"""

    def __post_init__(self) -> None:
        _one_of("lambda.mode", self.mode, ("absolute", "ratio", "path"))
        _positive("lambda", self, "value", "n_path")
        if self.mode != "absolute" and self.value > 1:
            raise SteerError(
                f"lambda.value={self.value} is a share of lambda_max with lambda={self.mode}; it must be at most 1."
            )


@dataclass
class EvaluateConfig:
    """What is scored, and beside which controls (group `evaluate`)."""

    objectives: list[str] = field(default_factory=lambda: ["latent", "expression"])
    """the fits that share the table"""
    controls: str = "all"
    """all: SAE spliced in, random features, random direction, mean difference, split halves, and each objective fitted once
    more with the labels shuffled; none: the no-op alone"""
    n_random: int = 20
    """seeds of the random-feature controls; random directions get a quarter as many"""
    n_genes: int = 100
    """DE genes of each direction that a distance is taken on"""
    n_bootstrap: int = 1000
    """resamples of the cells for an interval"""
    markers: list[str] = field(default_factory=lambda: ["CD8A", "CD8B", "GZMB", "GZMK", "NKG7", "CCL5", "CD4", "IL7R", "CCR7"])
    """genes reported by name"""

    def __post_init__(self) -> None:
        _one_of("evaluate.controls", self.controls, ("all", "none"))
        for name in self.objectives:
            _one_of("evaluate.objectives", name, OBJECTIVES)
        _positive("evaluate", self, "n_random", "n_genes", "n_bootstrap")


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
