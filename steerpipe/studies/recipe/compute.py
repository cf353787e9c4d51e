"""From a recipe back to genes: perturbations of the fit's cells, their combination, and the loop closed on held-out cells."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from ...data.cells import CellSource
from ...evaluate.population import permutation_p
from ...pipeline.activations import load_cells
from ...pipeline.artefact import built, kept
from ...pipeline.experiment import Experiment
from ...pipeline.fit import Recipe
from ...pipeline.problems import shift
from ...pipeline.program import HALVES, Phenotype
from ...pipeline.program_scores import rise
from ...progress import track
from ...steering.controls import random_recipe
from .explain import Rules, explain
from .perturb import KINDS, Perturbation, Perturber, high_counts

log = logging.getLogger(__name__)
VERSION = 1
RANDOM_RECIPES = 5
"""Random recipes of the explanation's null, over recipe.n_random: they cost an exact lasso each and no pass of the model."""


@dataclass(frozen=True)
class Back:
    """What back-translation reads.

    Attributes
    ----------
    candidates, own : columns of the genes that are perturbed; own are the programme's
    """

    asked: Phenotype
    recipe: Recipe
    candidates: np.ndarray
    own: np.ndarray

    @property
    def experiment(self) -> Experiment:
        """The experiment."""
        return self.asked.experiment

    @cached_property
    def rows(self) -> np.ndarray:
        """The fit's source rows that are perturbed, drawn at random; ascending."""
        config = self.experiment.context.config.recipe
        rng = np.random.default_rng([config.seed, 85])
        return np.sort(rng.permutation(self.experiment.fit_rows)[: config.n_cells])

    @cached_property
    def counts(self) -> CellSource:
        """The dataset's counts."""
        return load_cells(self.experiment.context.config, self.experiment.cached.model.genes)

    @cached_property
    def high(self) -> np.ndarray:
        """The counts of an over-expression, over the cells that fits may see."""
        return high_counts(self.counts[self.experiment.activations.fit][:, self.counts.valid])

    def perturber(self, cells: np.ndarray) -> Perturber:
        """Return some cells, positions in the dataset, ready to be perturbed."""
        cached, batch = self.experiment.cached, self.experiment.context.config.model.batch_size
        return Perturber(cached.model, self.counts[cells], self.counts.valid, self.high, cached.layer, batch)

    def measured(self, columns: np.ndarray) -> np.ndarray:
        """Return every cell's shift under either perturbation of some genes, float32 (n_genes, 2, n, D).

        Kept, a file a gene: a killed run resumes there, and programmes of the same cells share those of the candidates.
        """
        experiment = self.experiment
        cells = experiment.cells[self.rows]
        genes = [experiment.genes[i] for i in columns]

        def build(folder: Path) -> None:
            how = self.perturber(cells)
            base = how.embeddings(how.counts)
            for gene, column in track(list(zip(genes, columns, strict=True)), "perturbations", len(genes)):
                kept(folder / f"{gene}.npy", partial(how.shifts, int(column), base))

        reads = {"cells": cells.tolist(), "genes": hashlib.sha256(" ".join(genes).encode()).hexdigest()[:16]}
        reads |= {"layer": experiment.cached.layer, "split": experiment.activations.split_key}
        parents = [experiment.activations.artefact]
        path = built(experiment.context, "perturbations", build, version=VERSION, reads=reads, parents=parents).path
        return np.stack([np.load(path / f"{gene}.npy") for gene in genes])

    def explained(self) -> tuple[pd.DataFrame, dict[str, float]]:
        """Return the perturbations that explain the recipe's shift (see explain.explain), the programme's own apart.

        Two more columns: gene, and apart, of the programme's genes, which are in no combination.
        """
        experiment, config = self.experiment, self.experiment.context.config.recipe
        known = dict(zip(self.candidates.tolist(), self.measured(self.candidates), strict=True))
        free = np.setdiff1d(self.candidates, self.asked.program.genes)
        effects = np.stack([known[int(column)] for column in free])
        some = [Perturbation(int(column), kind) for column in free for kind in range(len(KINDS))]
        moved = shift(experiment, self.recipe.theta, self.recipe.mode, self.rows)
        rules = Rules(config.ratio, config.n_refits, config.stable, config.n_named, config.seed)
        table, found = explain(some, _flat(effects), moved, self._random(moved), rules)
        rest = np.setdiff1d(self.own, self.candidates)
        known |= dict(zip(rest.tolist(), self.measured(rest), strict=True)) if len(rest) else {}
        own = _flat(np.stack([known[int(column)] for column in self.own])).mean(1)
        target, norm = moved.mean(0), np.linalg.norm(own, axis=1)
        cosine = own @ target / np.maximum(norm * np.linalg.norm(target), 1e-300)
        apart = pd.DataFrame({"column": np.repeat(self.own, 2), "kind": list(KINDS) * len(self.own), "effect": norm})
        apart = apart.assign(cosine=cosine, explains=np.maximum(cosine, 0) ** 2, named=False, apart=True)
        both = pd.concat([table.assign(apart=False), apart.sort_values("cosine", ascending=False)], ignore_index=True)
        both.insert(0, "gene", [experiment.genes[i] for i in both["column"]])
        return both, found

    def _random(self, moved: np.ndarray) -> np.ndarray:
        """Mean shifts (R, D) of random recipes: the recipe's values on other active features, at the norm of its own shift."""
        experiment, config = self.experiment, self.experiment.context.config.recipe
        rng, length = np.random.default_rng([config.seed, 86]), np.linalg.norm(moved.mean(0))
        theta, found = self.recipe.theta, []
        for _ in range(RANDOM_RECIPES * config.n_random):
            other = random_recipe(theta, experiment.active | (theta != 0), rng)
            one = shift(experiment, other, self.recipe.mode, self.rows).mean(0)
            found.append(one * length / max(float(np.linalg.norm(one)), 1e-300))
        return np.array(found)

    def loop(self, named: Sequence[Perturbation], rows: np.ndarray) -> pd.DataFrame:
        """Return the programme's rise in held-out rows under the named perturbations together, each alone, and random ones.

        Columns: what, half, draw, rise (log1p CP10K). Genes that are perturbed are no matched genes of the score. Random
        ones are as many candidates, as many of them knocked out: they do not know the programme, which shares them with
        others that name as many.
        """
        experiment, config = self.experiment, self.experiment.context.config.recipe
        free = np.setdiff1d(self.candidates, self.asked.program.genes)
        kinds = sorted(one.kind for one in named)[: len(free)]
        rng = np.random.default_rng([config.seed, 87])
        draws = [rng.choice(free, len(kinds), replace=False) for _ in range(config.n_random)]
        random = [[Perturbation(int(c), kind) for c, kind in zip(drawn, kinds, strict=True)] for drawn in draws]
        own = [list(named)] + [[one] for one in named if len(named) > 1]
        names = [f"{experiment.genes[one.column]} {KINDS[one.kind]}" for one in named]
        labels = [("named together", 0), *((name, 0) for name in names[: len(own) - 1])]
        labels += [("random candidates", draw) for draw in range(len(random))]
        effects = np.concatenate([self.responses(own, rows), self.responses(random, rows)])
        out = []
        for (what, draw), some, effect in zip(labels, own + random, effects, strict=True):
            touched = np.array([one.column for one in some])
            for half in HALVES:
                risen = float(rise(np.zeros_like(effect), effect, self.asked.weights(half, without=touched)))
                out.append({"what": what, "half": half, "draw": draw, "rise": risen})
        return pd.DataFrame(out)

    def responses(self, sets: Sequence[Sequence[Perturbation]], rows: np.ndarray) -> np.ndarray:
        """Return the mean change of predicted log1p CP10K in some rows under sets of perturbations, float32 (n_sets, G).

        Kept; a killed run resumes at the set. The score is linear in it, so that programmes share it.
        """
        experiment = self.experiment

        def build(folder: Path) -> None:
            how = self.perturber(experiment.cells[rows])
            base = how.expression(how.counts)

            def response(some: Sequence[Perturbation]) -> np.ndarray:
                return np.asarray((how.expression(how.changed(some)) - base).mean(0))

            for number, some in enumerate(track(list(sets), "responses", len(sets))):
                kept(folder / f"{number:04d}.npy", partial(response, some))

        genes = [[[experiment.genes[one.column], one.kind] for one in some] for some in sets]
        reads = {"sets": hashlib.sha256(str(genes).encode()).hexdigest()[:16], "cells": experiment.cells[rows].tolist()}
        reads |= {"layer": experiment.cached.layer, "split": experiment.activations.split_key}
        path = built(
            experiment.context, "responses", build, version=VERSION, reads=reads, parents=[experiment.activations.artefact]
        ).path
        return np.stack([np.load(path / f"{number:04d}.npy") for number in range(len(sets))])


def loop_p(loop: pd.DataFrame, half: str = "all") -> float:
    """Return p of the named perturbations' rise against as many random candidates'."""
    rows = loop[loop["half"] == half]
    value = float(rows.loc[rows["what"] == "named together", "rise"].iloc[0])
    return float(permutation_p(value, rows.loc[rows["what"] == "random candidates", "rise"].to_numpy(), "higher").p)


def _flat(effects: np.ndarray) -> np.ndarray:
    """(genes, 2, n, D) -> float64 (2 genes, n, D), a gene's two perturbations side by side."""
    return effects.reshape(-1, *effects.shape[2:]).astype(np.float64)
