"""Settings of the contrast, of what is fitted, by how much it is penalised, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import SteerError
from .checks import NEEDED, label_words, one_of, positive

OBJECTIVES = ("latent", "latent_final", "expression", "mixed", "program")
READ_BY: dict[str, tuple[str, ...]] = {
    "latent": ("name", "mode", "tokens", "learnable", "match", "metric", "orthogonal", "bounds", "solver", "refit"),
    "latent_final": (
        "name", "mode", "tokens", "learnable", "match", "bounds", "refit", "max_cells", "max_steps", "tolerance",
    ),
}  # fmt: skip
READ_BY["expression"] = (*READ_BY["latent_final"], "top_n", "seen_genes")
READ_BY["program"] = READ_BY["latent_final"]
READ_BY["mixed"] = (*READ_BY["expression"], "metric", "orthogonal", "weight")
"""The settings that the answer of each objective depends on: they are its key."""
FORMS = {"population": "match", "cell": "match", "euclidean": "metric", "whitened": "metric"}
"""What may follow an objective's name in evaluate.objectives, and the setting that it is."""


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
        self.source, self.target = (label_words(f"contrast.{name}", getattr(self, name)) for name in ("source", "target"))
        if self.halves and self.target not in (None, self.source):
            raise SteerError(f"contrast.halves deals out contrast.source alone: contrast.target={self.target} must be null.")
        if self.source is None or (self.target is None and not self.halves):
            name = "source" if self.source is None else "target"
            raise SteerError(f"contrast.{name} is needed: add contrast.{name}=... to the command, or contrast=no_difference.")


@dataclass
class ObjectiveConfig:
    """What the steering vector minimises, and how it acts (group `objective`)."""

    name: str = "latent"
    """latent: squared distance of the pooled stream to the target's, at the steered layer; latent_final: distance after the
    final LayerNorm; expression: of the predicted expression; mixed: latent and expression, each over its value unsteered;
    program: no target, but a gene programme that is to rise, see the group recipe"""
    mode: str = "multiply"
    """multiply: codes are scaled by 1 + theta; add: theta_f times decoder row f is added, wherever f is silent too; clamp:
    codes are set to a value, the same at every steered token (latent only: support of multiply, values by least squares)"""
    tokens: Any = "genes"
    """genes: steer every gene that the dataset has; all: every token, depth tokens too, as the published code; or a list of
    gene symbols"""
    learnable: str = "active"
    """active: features that fire in a source cell; annotated: those of them with a term at q < annotate.q; stable: those
    that at least 60 % of the other seeds of stability.seeds find too, on the cells of the fit; all"""
    solver: str = "exact"
    """latent: exact, with a duality gap; or adam, the published way: 500 steps on an L1 subgradient, small values reset"""
    match: str = "population"
    """population: the mean of the steered cells is brought to the mean of the target cells; cell: each cell is brought to that
    mean, as published, which cells reach by shrinking together as well"""
    metric: str = "euclidean"
    """latent: euclidean, or whitened: distances after the pooled within-side covariance is whitened away"""
    orthogonal: float = 0.0
    """latent: what moving the mean across the way to the target costs more: 10 makes it 11 times as dear, which keeps steered
    cells nearer to where real ones are (`make bench-manifold`)"""
    bounds: list[Any] = field(default_factory=lambda: [None, None])
    """least and largest theta = alpha - 1, null for none; [-1, null] lets a code be silenced and not inverted"""
    refit: bool = False
    """also least squares on the recipe's support, without the penalty: free of its shrinkage, scored beside the recipe"""
    weight: float = 0.5
    """mixed: share of the latent term; a sweep over it is the Pareto curve"""
    top_n: int | None = None
    """expression: only the n genes of largest weight (the top-n DEG cap); null is all"""
    seen_genes: float = 0.5
    """expression: share of genes that the fit may look at; the scores on the others are the honest ones"""
    max_cells: int = 12
    """through the model: source cells in the fit at the most (the latent fit always takes all of them)"""
    max_steps: int = 30
    """through the model: proximal steps at one lambda, at the most"""
    tolerance: float = 0.05
    """through the model: stop when the prox-gradient norm is below this share of the one at theta = 0"""

    def __post_init__(self) -> None:
        one_of("objective.name", self.name, OBJECTIVES)
        one_of("objective.mode", self.mode, ("multiply", "add", "clamp"))
        one_of("objective.learnable", self.learnable, ("active", "annotated", "stable", "all"))
        one_of("objective.solver", self.solver, ("exact", "adam"))
        one_of("objective.match", self.match, ("population", "cell"))
        one_of("objective.metric", self.metric, ("euclidean", "whitened"))
        _check_bounds(self.bounds)
        if self.orthogonal < 0:
            raise SteerError(f"objective.orthogonal={self.orthogonal} must be 0 or more.")
        positive("objective", self, "top_n", "max_cells", "max_steps", "tolerance")
        if isinstance(self.tokens, str):
            one_of("objective.tokens", self.tokens, ("genes", "all", "a list of genes, as in [CD8A,CD8B]"))
        elif not self.tokens:
            raise SteerError("objective.tokens=[] steers nothing; allowed: genes, all, or a list of genes.")
        if not 0 < self.seen_genes <= 1:
            raise SteerError(f"objective.seen_genes={self.seen_genes} must lie in (0, 1].")
        if self.mode == "clamp" and self.name != "latent":
            msg = f"objective.mode=clamp is fitted for objective=latent, not {self.name}: take multiply or add, or only latent."
            raise SteerError(msg)
        if not 0 <= self.weight <= 1:
            raise SteerError(f"objective.weight={self.weight} must lie in [0, 1].")

    @property
    def label(self) -> str:
        """The name in tables and figures: the objective, and what of its form is not the default."""
        forms = [self.match] * (self.match != "population") + [self.metric] * (self.metric != "euclidean")
        forms += [f"orthogonal {self.orthogonal:g}"] * (self.orthogonal > 0)
        return f"{self.name} ({', '.join(forms)})" if forms else self.name

    def named(self, choice: str) -> ObjectiveConfig:
        """Return these settings with another objective: `expression`, or with its form, as in `latent:cell:whitened`.

        Raises
        ------
        SteerError
            No such objective or form.
        """
        name, *forms = choice.split(":")
        one_of("evaluate.objectives", name, OBJECTIVES)
        changes: dict[str, Any] = {"name": name}
        for form in forms:
            one_of(f"form in evaluate.objectives={choice}", form, tuple(FORMS))
            changes[FORMS[form]] = form
        return replace(self, **changes)


def _check_bounds(bounds: list[Any]) -> None:
    numbers = [b is None or (isinstance(b, (int, float)) and not isinstance(b, bool)) for b in bounds]
    low, high = (*bounds, None, None)[:2]
    if len(bounds) != 2 or not all(numbers) or (low is not None and low > 0) or (high is not None and high < 0):
        raise SteerError(f"objective.bounds={bounds} must be [low, high] with low <= 0 <= high, or null for none: [-1, null].")


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
        one_of("lambda.mode", self.mode, ("absolute", "ratio", "path"))
        positive("lambda", self, "value", "n_path")
        if self.mode != "absolute" and self.value > 1:
            raise SteerError(
                f"lambda.value={self.value} is a share of lambda_max with lambda={self.mode}; it must be at most 1."
            )


@dataclass
class EvaluateConfig:
    """What is scored, and beside which controls (group `evaluate`)."""

    objectives: list[str] = field(default_factory=lambda: ["latent", "expression"])
    """the fits that share the table: objectives, each with another form if one is named, as in latent:cell"""
    controls: str = "all"
    """all: SAE spliced in, random features, random direction, mean difference, split halves; none: the no-op alone"""
    n_permutations: int = 100
    """latent: times that the fit's cells are dealt anew between the sides and the whole fit is repeated; 0: no null"""
    n_permutations_model: int = 20
    """the same for objectives through the model; and, of every null, the recipes that are scored through the model"""
    half_dose: bool = False
    """also fit the source cells to the mean of both sides mixed: half of the true difference, and no null"""
    dictionaries: int = 1
    """repeat dictionary, fit and scores for so many seeds, from sae.seed on; every headline number is then their mean"""
    max_cells: int = 200
    """cells of each side that are scored at the most"""
    umap: bool = False
    """also draw the cells on a UMAP, which takes half a minute to compile"""
    n_random: int = 20
    """seeds of the random-feature controls; random directions get a quarter as many"""
    n_genes: int = 100
    """DE genes of each direction that a distance is taken on"""
    n_bootstrap: int = 1000
    """resamples of the cells for an interval"""
    markers: list[str] = field(default_factory=lambda: ["CD8A", "CD8B", "GZMB", "GZMK", "NKG7", "CCL5", "CD4", "IL7R", "CCR7"])
    """genes reported by name"""

    def __post_init__(self) -> None:
        one_of("evaluate.controls", self.controls, ("all", "none"))
        for name in self.objectives:
            ObjectiveConfig().named(name)
        positive("evaluate", self, "n_random", "n_genes", "n_bootstrap", "dictionaries", "max_cells")
        for name in ("n_permutations", "n_permutations_model"):
            if getattr(self, name) < 0:
                raise SteerError(f"evaluate.{name}={getattr(self, name)} must be 0 or more.")
