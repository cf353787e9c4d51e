"""Settings of the studies, which put many fits side by side, and the list of their groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import SteerError
from .adapter import AdapterConfig
from .atlas import AtlasConfig
from .checks import one_of, positive, share
from .steering import OBJECTIVES

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


@dataclass
class CircuitsConfig:
    """What features of one layer do at later layers and at the head (group `circuits`)."""

    layers: list[int] = field(default_factory=lambda: [2, 3, 4])
    """0-based, ascending, each with a dictionary of its own; edges go from each to the later ones and to the head"""
    n_sources: int = 12
    """features of each layer that are switched off: the most active, or the strongest of a recipe or of what it reaches"""
    sources: list[int] = field(default_factory=list)
    """features of the first layer, in place of the most active"""
    recipe: str | None = None
    """an objective, say latent: the sources are the features that its fit at the first layer recruits, later layers' are
    those that these reach, and the cells are the contrast's source cells"""
    max_cells: int = 24
    """held-out cells at the most; every source runs them through the blocks above its layer (2 n_random + 1) times"""
    min_cells: int = 6
    """cells in which a source, and a target feature, must fire"""
    n_random: int = 1
    """null trials of either kind a source: random directions of its norm, and features matched in activity"""
    dose: bool = False
    """run sources at theta = +1 too, beside -1"""
    n_permutations: int = 4999
    """deals of the cells' signs, for p"""
    fdr: float = 0.05
    """largest q of an edge, and largest empirical FDR"""
    n_targets: int = 24
    """features of a later layer, drawn at random, whose gradients are compared with the ablations; 0 leaves it out"""
    gradient_cells: int = 8
    """cells of that comparison"""
    n_mediated: int = 4
    """sources of each layer, and with a recipe the recipe, whose effect on genes is split by what carries it"""
    n_held: int = 10
    """features of a later layer that are held at their clean codes: a source's strongest edges"""
    held_draws: int = 5
    """draws of as many random features, held in their place"""
    n_genes: int = 50
    """genes that a source moves most: what its share is of, and what its GO terms are of"""
    paths: list[str] = field(default_factory=list)
    """dictionaries to import, one a layer; empty: they are trained with the sae group's settings"""
    parts: int = 1
    """processes or machines that share the sources: part=0,1,... of so many, then the same command without part joins them"""
    part: int | None = None
    """which of them this is"""
    seed: int = 0

    def __post_init__(self) -> None:
        counted = ("n_sources", "max_cells", "min_cells", "n_permutations", "gradient_cells", "n_held", "held_draws", "n_genes")
        positive("circuits", self, *counted, "parts")
        share("circuits", self, "fdr")
        if self.recipe is not None:
            one_of("circuits.recipe", self.recipe, OBJECTIVES)
        if self.recipe is not None and self.sources:
            raise SteerError("circuits.sources and circuits.recipe both say which features to switch off: leave one out.")
        if not self.layers or any(b <= a for a, b in zip(self.layers, self.layers[1:], strict=False)) or self.layers[0] < 0:
            raise SteerError(f"circuits.layers={self.layers} must be blocks in ascending order, say [2,3,4].")
        if self.paths and len(self.paths) != len(self.layers):
            raise SteerError(f"circuits.paths names {len(self.paths)} dictionaries for {len(self.layers)} layers: one a layer.")
        if self.min_cells < 2 or self.min_cells > self.max_cells:
            raise SteerError(f"circuits.min_cells={self.min_cells} must lie between 2 and circuits.max_cells={self.max_cells}.")
        for name in ("n_random", "n_targets", "n_mediated"):
            if getattr(self, name) < 0:
                raise SteerError(f"circuits.{name}={getattr(self, name)} must be 0 or more.")
        if self.part is not None and not 0 <= self.part < self.parts:
            raise SteerError(f"circuits.part={self.part} must lie between 0 and circuits.parts-1={self.parts - 1}.")


@dataclass
class RegulationConfig:
    """Whether the model encodes what TFs regulate, or what they are co-expressed with (group `regulation`)."""

    regulons: str = "collectri"
    """a CSV of source,target,weight, or collectri: from $STEER_DATA/genesets, else by decoupler where that is installed"""
    tfs: list[str] = field(default_factory=list)
    """TFs to test; empty: all with min_targets targets among the dataset's genes"""
    min_targets: int = 10
    """targets among the dataset's genes that a TF needs"""
    max_targets: int = 30
    """targets of a TF whose effect on it is measured at the most (one pass each), drawn at random; the TF's effect is read
    at all genes"""
    alphas: list[float] = field(default_factory=lambda: [-2.0, 2.0, 5.0])
    """what a feature's code is multiplied by at the one token that is steered; 1 is no change"""
    push: str = "matched"
    """at a target's token: matched, the very vector that the TF's token gets; own, the feature's code at the target's token,
    which is 0 where it is silent there"""
    max_features: int = 3
    """features of a TF at the most: of those whose gene set has it, the ones of largest mean |code| at its token"""
    max_cells: int = 8
    """held-out cells that are steered, drawn at random"""
    n_random: int = 1
    """draws of the random-feature control: other features' directions at the same length"""
    n_dealt: int = 1
    """draws of the control whose targets are dealt anew among TFs"""
    n_controls: int = 5
    """genes matched to each target in expression and in correlation with the TF, at the most"""
    n_permutations: int = 10_000
    """draws of each null"""
    q: float = 0.05
    """a TF counts below this q (Benjamini and Hochberg over all TFs), in both tests"""
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("regulation.push", self.push, ("matched", "own"))
        counts = ("min_targets", "max_targets", "max_features", "max_cells", "n_controls", "n_permutations")
        positive("regulation", self, *counts)
        share("regulation", self, "q")
        for name in ("n_random", "n_dealt"):
            if getattr(self, name) < 0:
                raise SteerError(f"regulation.{name}={getattr(self, name)} must be 0 or more.")
        if all(alpha == 1 for alpha in self.alphas):
            raise SteerError("regulation.alphas needs a value other than 1, which is no change.")


@dataclass
class RecipeConfig:
    """The programme of objective=program, and from its recipe to genes that could be perturbed (group `recipe`)."""

    up: list[str] = field(default_factory=list)
    """symbols of the genes that should rise"""
    down: list[str] = field(default_factory=list)
    """symbols of the genes that should fall"""
    set: str | None = None
    """in place of `up`, a set of a library (see annotate.library) by its name: hallmark:interferon gamma response"""
    like: str | None = None
    """in place of `up` and `down`, a label of the cells to be like: the genes that differ most from the source, either way"""
    n_like: int = 25
    """like: genes of either direction"""
    max_shift: float = 1.0
    """limit of the recipe's shift at the steered layer, over the root mean square distance of source cells from their mean"""
    candidates: Any = "expressed"
    """genes to knock out and to over-express: expressed (in the source cells), tf (of regulation.regulons), surface (by symbol:
    CD molecules and families of receptors), or a list of symbols"""
    max_candidates: int = 60
    """of these the most expressed, at the most; each costs up to 2 n_cells passes of the blocks up to the steered layer"""
    n_cells: int = 6
    """source cells of the fit that are perturbed, drawn at random"""
    ratio: float = 0.1
    """penalty of the combination of perturbations that explains the recipe's shift, a share of its lambda_max"""
    n_refits: int = 100
    """refits of the combination, each on half of the cells"""
    stable: float = 0.6
    """a perturbation is named if so many of the refits have it, and random recipes have it less"""
    n_named: int = 5
    """perturbations that are named, at the most"""
    n_random: int = 20
    """random features, random directions and random candidates that are scored; random recipes are 5 times as many"""
    held_cells: int = 24
    """held-out source cells on which recipe and perturbations are scored, at the most"""
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in ("up", "set", "like") if getattr(self, name)]
        if len(given) > 1 or (self.like and self.down):
            raise SteerError(f"recipe.{given[0]} and recipe.{(given[1:] or ['down'])[0]} both say what should rise: give one.")
        if isinstance(self.candidates, str):
            one_of("recipe.candidates", self.candidates, ("expressed", "tf", "surface", "a list of genes, as in [STAT1,IRF7]"))
        elif not self.candidates:
            raise SteerError("recipe.candidates=[] perturbs nothing; allowed: expressed, tf, surface, or a list of genes.")
        counted = ("n_like", "max_shift", "max_candidates", "n_cells", "n_refits", "n_named", "n_random", "held_cells")
        positive("recipe", self, *counted)
        share("recipe", self, "ratio", "stable")


@dataclass
class GranularityConfig:
    """How many features a change of state takes, for many targets (group `granularity`)."""

    labels: list[str] = field(default_factory=list)
    """labels of dataset.label; every ordered pair of them is a target. Empty: those with enough cells"""
    max_labels: int = 6
    """labels when none are named: those with most cells"""
    min_cells: int = 20
    """cells that a label needs, test cells included"""
    max_cells: int = 60
    """cells of a label at the most, drawn at random, test cells as often as in the dataset"""
    programs: list[str] = field(default_factory=list)
    """gene programmes as further targets, each LIBRARY:SET, say 'go_bp:T cell activation': within every label, from the third
    of the cells whose predicted expression has least of it to the third that has most"""
    sizes: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])
    """numbers of features at which the exact path is read"""
    n_random: int = 20
    """draws of features ranked at random, and of modules of random features: under 19 no module can be told from them"""
    n_permutations: int = 100
    """deals of the fit's cells between source and target, everything fitted anew: the null of every unit's gap"""
    held_cells: int = 24
    """held-out cells of either side that are scored, at the most"""

    def __post_init__(self) -> None:
        positive("granularity", self, "max_labels", "min_cells", "max_cells", "n_random", "n_permutations", "held_cells")
        if len(self.labels) == 1 or (not self.labels and self.max_labels < 2):
            raise SteerError("granularity needs two labels at least: name them in granularity.labels, or raise max_labels.")
        if len(self.sizes) < 4 or self.sizes != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise SteerError(f"granularity.sizes={self.sizes} must be four or more ascending numbers of features, from 1 up.")


@dataclass
class KnockdownConfig:
    """Whether recipes know real perturbations (group `knockdown`)."""

    perturbations: list[str] = field(default_factory=list)
    """perturbations of dataset.perturbation, by name; empty: all with min_cells cells to fit on, those with most cells first"""
    max_perturbations: int = 30
    """perturbations when none are named"""
    min_cells: int = 30
    """cells to fit on that a perturbation needs"""
    max_cells: int = 120
    """cells of a perturbation at the most, drawn at random, test cells as often as in the dataset; of the control four times"""
    held_cells: int = 24
    """held-out control cells that are steered for scores, at the most"""
    objectives: list[str] = field(default_factory=lambda: ["latent"])
    """latent: the exact lasso; expression: through the model, with evaluate.n_permutations_model deals"""
    n_permutations: int = 100
    """deals of the fit's cells between control and perturbation, each fitted and scored anew"""
    n_random: int = 20
    """recipes of the same values on random features"""
    block: list[str] = field(default_factory=list)
    """perturbations of one pathway, whose recipes should be alike"""
    regulons: str | None = None
    """a CSV of source,target,weight, or collectri: regulons beside the terms of annotate.library as a gene's programmes"""
    min_terms: int = 5
    """programmes that a perturbed gene needs to be ranked"""

    def __post_init__(self) -> None:
        counts = ("max_perturbations", "min_cells", "max_cells", "held_cells", "n_permutations", "n_random", "min_terms")
        positive("knockdown", self, *counts)
        for name in self.objectives:
            one_of("knockdown.objectives", name, ("latent", "expression"))
        if not self.objectives:
            raise SteerError("knockdown.objectives is empty; allowed: latent, expression, or both.")
        if len(self.block) == 1:
            raise SteerError(f"knockdown.block={self.block} is one perturbation: name two at least, or none.")


@dataclass(kw_only=True)
class Studies:
    """The groups of all studies. Hydra's schemas and its list of defaults follow from these fields.

    Where no choice is named, the group's `default.yaml` is taken, or the file that the field names.
    """

    stability: StabilityConfig = field(metadata={"choice": "seeds"})
    diagnose: DiagnoseConfig = field(metadata={"choice": "full"})
    transfer: TransferConfig
    pareto: ParetoConfig
    circuits: CircuitsConfig
    regulation: RegulationConfig
    recipe: RecipeConfig
    granularity: GranularityConfig
    knockdown: KnockdownConfig
    adapter: AdapterConfig = field(metadata={"choice": "inverse"})
    atlas: AtlasConfig
