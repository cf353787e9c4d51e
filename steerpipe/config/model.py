"""Settings of the model, the data, the layer and the activations that are stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import SteerError
from .checks import NEEDED, label_words, one_of, positive, share

KINDS = ("AIDO.Cell", "scGPT", "Geneformer")


@dataclass
class ModelConfig:
    """A foundation model (group `model`)."""

    path: str = NEEDED
    """`mini`, a folder with config.json and weights, or a hub id (owner/name); a folder wins over a hub id"""
    revision: str | None = None
    """commit, tag or branch of a hub id (null: main); a folder has none"""
    kind: str | None = None
    """what the folder must hold: AIDO.Cell, scGPT or Geneformer; null takes it for what its files are"""
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
        if self.kind is not None:
            one_of("model.kind", self.kind, KINDS)
        one_of("model.tokens", self.tokens, ("all", "expressed"))
        one_of("model.readout", self.readout, ("reconstruction", "masked"))
        share("model", self, "masked_share")
        positive("model", self, "steering_layer", "batch_size", "depth_target", "contrast_cells")


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
    perturbation: str | None = None
    """obs column of the perturbed gene, or of two as A+B or A_B"""
    control: str | None = None
    """in that column, the label of unperturbed cells"""
    held: list[str] = field(default_factory=list)
    """in that column, perturbations whose cells are all test cells: no model that steer pretrain makes of this dataset, no
    dictionary and no recipe ever sees them"""
    aliases: bool = True
    """match genes through the alias map and by Ensembl id too"""
    duplicates: str = "sum"
    """several columns of one gene: sum, or refuse"""
    max_cells: int | None = None
    """keep at most so many cells, drawn at random with seed 0"""

    def __post_init__(self) -> None:
        positive("dataset", self, "max_cells")
        for name, labels in self.groups.items():
            words = label_words(f"dataset.groups.{name}", labels)
            self.groups[name] = [words] if isinstance(words, str) else words or []
        if not 0 <= self.test_share < 1:
            raise SteerError(f"dataset.test_share={self.test_share} must lie in [0, 1).")
        one_of("dataset.duplicates", self.duplicates, ("sum", "refuse"))
        if self.held and self.perturbation is None:
            raise SteerError("dataset.held names perturbations: say in dataset.perturbation which obs column has them.")
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
        one_of("extract.dtype", self.dtype, ("float16", "bfloat16", "float32"))
        one_of("extract.tokens", self.tokens, ("auto", "valid", "expressed", "sample"))
        positive("extract", self, "shard_tokens", "n_tokens", "max_bytes", "parts", "check_cells")
        if self.part is not None and not 0 <= self.part < self.parts:
            raise SteerError(f"extract.part={self.part} must lie between 0 and extract.parts-1={self.parts - 1}.")
