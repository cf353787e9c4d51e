"""The programme of objective=program on an experiment: which genes, which half a fit sees, how far cells may be moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..config import Config, ObjectiveConfig, RecipeConfig
from ..data.contrast import group_labels
from ..data.genes import alias_map
from ..data.genesets import find_set
from ..errors import SteerError, unknown
from ..models.checkpoints import model_genes
from ..models.preprocess import DepthRule, model_input
from ..steering.lasso import LatentProblem
from ..steering.program import Program, random_program, score_weights, seen_half
from ..steering.shift import scaled_codes
from .activations import load_cells
from .experiment import Experiment

HALVES = ("seen", "held", "all")
VERSION = 2
"""Raised when fits of programmes, and of no other objective, change."""


@dataclass(frozen=True)
class Phenotype:
    """A programme as it was asked for.

    Attributes
    ----------
    name : what it is called in texts
    program : its genes among the valid ones
    missing : symbols that the data lacks
    """

    experiment: Experiment
    name: str
    program: Program
    missing: list[str]

    @cached_property
    def expression(self) -> np.ndarray:
        """float64 (G,), the genes' mean counts in the fit's source cells: what like genes are matched by."""
        return np.asarray(self.experiment.counts[self.experiment.fit_rows].mean(0), np.float64)

    @cached_property
    def seen(self) -> np.ndarray:
        """bool (G,): the half of the genes that the fit looks at."""
        return seen_half(self.program, len(self.experiment.genes), self._rng(71))

    def weights(self, half: str, without: np.ndarray | None = None) -> np.ndarray:
        """Return the score's weights (G,) on the half that the fit has seen, on the held-out half, or on all genes.

        Parameters
        ----------
        without : columns of genes that no matched gene may be, such as those that are perturbed
        """
        among = {"seen": self.seen, "held": ~self.seen, "all": np.ones_like(self.seen)}[half].copy()
        if without is not None:
            among[np.setdiff1d(without, self.program.genes)] = False
        return score_weights(self.program, self.expression, among, self._rng(72))

    def key(self) -> dict[str, Any]:
        """Return what identifies the programme in keys."""
        up, down = ([self.experiment.genes[i] for i in some] for some in self.program)
        return {"up": up, "down": down, "max_shift": self.experiment.context.config.recipe.max_shift}

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.experiment.context.config.seed, stream])


def check_program(config: Config, objectives: Sequence[str] = ("program",)) -> None:
    """Refuse, before anything is computed, an objective=program without a programme, or with a set that does not exist.

    Parameters
    ----------
    objectives : those that are to be fitted; without `program` nothing is asked of the programme

    Raises
    ------
    SteerError
        What is missing, and how it is given.
    """
    recipe = config.recipe
    if "program" not in objectives:
        return
    if not (recipe.up or recipe.down or recipe.set or recipe.like):
        raise SteerError(
            "objective=program needs a programme: recipe.up=[GZMB,PRF1,NKG7], recipe.set='hallmark:interferon gamma response', "
            "or recipe.like=LABEL of cells."
        )
    if recipe.set:
        find_set(recipe.set, "recipe.set")


def phenotype(experiment: Experiment) -> Phenotype:
    """Return the configured programme on the genes that the experiment has.

    Raises
    ------
    SteerError
        No programme, or a side with fewer than two genes: one half is the fit's, the other half is scored.
    """
    config = experiment.context.config
    check_program(config)
    recipe = config.recipe
    if recipe.like:
        return Phenotype(experiment, f"like {recipe.like}", _like(experiment, recipe), [])
    if recipe.set:
        name, members = find_set(recipe.set, "recipe.set")
        up: list[str] = sorted(members)
    else:
        up, name = recipe.up, " ".join([*recipe.up[:4], *(["..."] if len(recipe.up) > 4 else [])]) or "falling genes"
    columns, missing = [], []
    for side, symbols in (("up", up), ("down", recipe.down)):
        found = {gene: _column(gene, experiment.genes) for gene in dict.fromkeys(symbols)}
        there = sorted({at for at in found.values() if at >= 0})
        missing += [gene for gene, at in found.items() if at < 0]
        if symbols and len(there) < 2:
            raise _too_few(side, recipe, there, missing, experiment.genes)
        columns.append(np.array(there, np.int64))
    both = np.intersect1d(columns[0], columns[1])
    if len(both):
        raise SteerError(f"{experiment.genes[both[0]]} is to rise and to fall: take it out of recipe.up or recipe.down.")
    return Phenotype(experiment, name, Program(*columns), missing)


def random_phenotype(experiment: Experiment, number: int) -> Experiment:
    """Return the experiment with a random programme of as many genes, alike in expression, in place of its own."""
    own = phenotype(experiment)
    config = experiment.context.config
    drawn = random_program(own.program, own.expression, np.random.default_rng([config.seed, 73, number]))
    up, down = ([experiment.genes[i] for i in some] for some in drawn)
    other = replace(config, recipe=replace(config.recipe, up=up, down=down, set=None, like=None))
    return replace(experiment, context=replace(experiment.context, config=other))


def program_key(experiment: Experiment, objective: ObjectiveConfig) -> dict[str, Any]:
    """Return what an objective reads of the programme: nothing for the others."""
    return {"program": phenotype(experiment).key() | {"version": VERSION}} if objective.name == "program" else {}


def reach(experiment: Experiment, objective: ObjectiveConfig, rows: np.ndarray) -> tuple[LatentProblem, float]:
    """Return the problem whose loss is the squared shift of some source rows, and the limit of the shift.

    The limit is recipe.max_shift times the root mean square distance of the rows from their mean, at the steered layer.
    """
    W_dec = experiment.sae.W_dec.detach().cpu().numpy()
    z = scaled_codes(objective.mode, experiment.zbar[rows], experiment.cached.token_share)
    e = np.asarray(experiment.layer[experiment.cells[rows]], np.float64)
    spread = float(np.sqrt(np.square(e - e.mean(0)).sum(1).mean()))
    none = np.zeros_like(e)
    return LatentProblem(z, W_dec, none, none, match=objective.match), experiment.context.config.recipe.max_shift * spread


def within_limit(experiment: Experiment, objective: ObjectiveConfig, theta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return theta (F,), of objective=program scaled down where its shift is beyond the limit; the shift is linear in theta."""
    if objective.name != "program" or not theta.any():
        return theta
    problem, limit = reach(experiment, objective, rows)
    return theta * min(1.0, limit / max(float(np.sqrt(problem.loss(theta))), 1e-300))


def _column(gene: str, genes: list[str]) -> int:
    """A symbol's position among the valid genes, through the alias map where it is not there; -1 if it is not at all."""
    for name in (gene, alias_map().get(gene)):
        if name in genes:
            return genes.index(name)
    return -1


def _too_few(side: str, recipe: RecipeConfig, there: list[int], missing: list[str], genes: list[str]) -> SteerError:
    given = f"recipe.set={recipe.set}" if side == "up" and recipe.set else f"recipe.{side}"
    if missing and not there and not recipe.set:
        return unknown(f"gene in {given}", missing[0], genes)
    lacking = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
    return SteerError(
        f"{given} has {len(there)} genes of the data; two are needed, one to fit and one to score"
        + (f"; lacking: {lacking}." if missing else ".")
    )


def _like(experiment: Experiment, recipe: RecipeConfig) -> Program:
    """The genes whose measured mean log1p CP10K differs most between the labelled cells and the source, of the fit's cells."""
    config, source = experiment.context.config, experiment.activations
    column = config.contrast.column or config.dataset.label
    assert column is not None
    labels, chosen = source.obs[column].astype(str), str(recipe.like)
    wanted = group_labels(chosen, config.dataset, labels)
    cells = source.fit[labels.iloc[source.fit].isin(wanted)]
    counts = load_cells(config, model_genes(config.model.path, config.model.revision))
    sides = (cells, np.sort(experiment.split.source_fit))
    there, here = (model_input(counts[some], DepthRule())[:, counts.valid].double().mean(0).numpy() for some in sides)
    difference = there - here
    order = np.argsort(-difference, kind="stable")
    n = min(recipe.n_like, len(order) // 4)
    up, down = order[:n], order[::-1][:n]
    up, down = up[difference[up] > 0], down[difference[down] < 0]
    if min(len(up), len(down)) < 2:
        raise SteerError(f"recipe.like={chosen} are the source cells, or do not differ from them: name other cells.")
    return Program(np.sort(up), np.sort(down))
