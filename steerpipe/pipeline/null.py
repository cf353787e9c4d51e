"""The permutation null: the fit's cells dealt anew between the sides, codes and streams with them, and the whole fit repeated.

A programme has no other side: what is dealt anew is the programme, for random genes that are expressed as much.

What is left of a claim when there is nothing to find. Deal b depends on the seed and b alone, so that fits and dictionaries
share their deals and a mean over dictionaries has a null of its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ObjectiveConfig, as_dict
from ..progress import track
from .artefact import Artefact, built, kept
from .experiment import Experiment, Sides
from .ladder import cells_key, read_by, recipe_parents
from .problems import Groups, solve
from .program import random_phenotype

VERSION = 1


def deal(groups: Groups, seed: int, number: int) -> list[Sides]:
    """Return the groups with their cells dealt anew between the sides, sizes kept; every group on its own."""
    dealt = []
    for at, (source, target) in enumerate(groups):
        both = np.random.default_rng([seed, 13, number, at]).permutation(np.concatenate([source, target]))
        dealt.append(Sides(np.sort(both[: len(source)]), np.sort(both[len(source) :])))
    return dealt


def dealt(
    experiment: Experiment, objective: ObjectiveConfig, groups: Groups, number: int
) -> tuple[Experiment, ObjectiveConfig, list[Sides]]:
    """Return what the null's fit of a number is posed on: the cells dealt anew, or of a programme the random one."""
    if objective.name == "program":
        return random_phenotype(experiment, number), objective, list(groups)
    return experiment, objective, deal(groups, experiment.context.config.seed, number)


def n_permutations(experiment: Experiment, objective: ObjectiveConfig) -> int:
    """Return how many deals an objective's null has."""
    config = experiment.context.config.evaluate
    return config.n_permutations if objective.name == "latent" else config.n_permutations_model


def null_recipes(
    experiment: Experiment, objective: ObjectiveConfig, groups: Groups | None = None
) -> tuple[Artefact, np.ndarray]:
    """Return what an objective recruits when there is nothing to find: theta (n, F), one row a deal.

    Every deal is fitted as the recipe is, at the configured lambda (the same ratio of its own lambda_max, or the same
    weight); the published Adam is replaced by the exact solver. Cost: n fits; a killed run resumes at the next deal.
    """
    config = experiment.context.config
    n = n_permutations(experiment, objective)
    settings: dict[str, Any] = {"objective": read_by(experiment, objective), "lambda": as_dict(config.lam), "n": n}
    settings |= cells_key(experiment, groups)
    for unused in ("solver", "refit"):
        settings["objective"].pop(unused, None)
    sides = groups or [experiment.sides]

    def build(folder: Path) -> None:
        for number in track(range(n), f"null of {objective.label}", n):
            kept(folder / f"{number:04d}.npy", partial(one, number))
        files = [folder / f"{number:04d}.npy" for number in range(n)]
        np.save(folder / "thetas.npy", np.array([np.load(file) for file in files]).reshape(n, experiment.sae.n_features))
        for file in files:
            file.unlink()

    def one(number: int) -> np.ndarray:
        return solve(*dealt(experiment, objective, sides, number), config.lam, direct=True).theta

    parents = recipe_parents(experiment, objective)
    artefact = built(experiment.context, "null", build, version=VERSION, reads=settings, parents=parents)
    return artefact, np.load(artefact.path / "thetas.npy")
