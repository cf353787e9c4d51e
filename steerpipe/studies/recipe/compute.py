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
from ...progress import track
from ...steering.controls import random_recipe
from .explain import Rules, explain
from .perturb import KINDS, Perturbation, Perturber, high_counts
from .scores import rise

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
        effects = self.measured(self.candidates)[~np.isin(self.candidates, self.asked.program.genes)]
        free = np.setdiff1d(self.candidates, self.asked.program.genes)
        some = [Perturbation(int(column), kind) for column in free for kind in range(len(KINDS))]
        moved = shift(experiment, self.recipe.theta, self.recipe.mode, self.rows)
        rules = Rules(config.ratio, config.n_refits, config.stable, config.n_named, config.seed)
        table, found = explain(some, _flat(effects), moved, self._random(moved), rules)
        own = _flat(self.measured(self.own)).mean(1)
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
        ones are as many candidates, as many of them knocked out. Kept; a killed run resumes at the set of perturbations.
        """
        experiment, config = self.experiment, self.experiment.context.config.recipe

        def build(folder: Path) -> None:
            self._loop(named, rows, folder).to_parquet(folder / "loop.parquet", index=False)

        reads = {"program": self.asked.key(), "named": [list(one) for one in named], "candidates": self.candidates.tolist()}
        reads |= {"cells": experiment.cells[rows].tolist(), "n_random": config.n_random, "seed": config.seed}
        reads |= {"global_seed": experiment.context.config.seed, "split": experiment.activations.split_key}
        parents = [experiment.streams]
        made = built(experiment.context, "recipe-loop", build, version=VERSION, reads=reads, parents=parents)
        return pd.read_parquet(made.path / "loop.parquet")

    def _loop(self, named: Sequence[Perturbation], rows: np.ndarray, folder: Path) -> pd.DataFrame:
        experiment, config = self.experiment, self.experiment.context.config.recipe
        how = self.perturber(experiment.cells[rows])
        base = how.expression(how.counts)
        free = np.setdiff1d(self.candidates, self.asked.program.genes)
        rng = np.random.default_rng([config.seed, 87])
        sets = [("named together", 0, list(named))]
        sets += [(f"{experiment.genes[one.column]} {KINDS[one.kind]}", 0, [one]) for one in named if len(named) > 1]
        for draw in range(config.n_random):
            drawn = rng.choice(free, min(len(named), len(free)), replace=False)
            some = [Perturbation(int(column), one.kind) for column, one in zip(drawn, named, strict=False)]
            sets.append(("random candidates", draw, some))
        out = []

        def risen(some: list[Perturbation]) -> np.ndarray:
            after, touched = how.expression(how.changed(some)), np.array([one.column for one in some])
            return np.array([rise(base, after, self.asked.weights(half, without=touched)).mean() for half in HALVES])

        for number, (what, draw, some) in enumerate(track(sets, "loop", len(sets))):
            file = folder / f"{number:04d}.npy"
            kept(file, partial(risen, some))
            out += [
                {"what": what, "half": half, "draw": draw, "rise": value}
                for half, value in zip(HALVES, np.load(file), strict=True)
            ]
        return pd.DataFrame(out)


def loop_p(loop: pd.DataFrame, half: str = "all") -> float:
    """Return p of the named perturbations' rise against as many random candidates'."""
    rows = loop[loop["half"] == half]
    value = float(rows.loc[rows["what"] == "named together", "rise"].iloc[0])
    return float(permutation_p(value, rows.loc[rows["what"] == "random candidates", "rise"].to_numpy(), "higher").p)


def _flat(effects: np.ndarray) -> np.ndarray:
    """(genes, 2, n, D) -> float64 (2 genes, n, D), a gene's two perturbations side by side."""
    return effects.reshape(-1, *effects.shape[2:]).astype(np.float64)
