"""Which perturbations are fitted, on which cells, and on which others they are scored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...config import Config
from ...data.contrast import Split, capped
from ...data.genesets import load_library
from ...data.labels import find_label
from ...data.perturbations import control_label, perturbation_labels, perturbations
from ...data.regulons import load_regulons
from ...data.split import fit_and_test, test_cells
from ...errors import SteerError
from ...pipeline.experiment import Experiment, Sides
from ..labelled import require_perturbations

log = logging.getLogger(__name__)
MIN_HELD = 8
"""Held-out cells of a perturbation: either half of them is a ceiling."""
CONTROLS = 4
"""Control cells, over knockdown.max_cells."""


@dataclass(frozen=True)
class Target:
    """One perturbation.

    Attributes
    ----------
    name, genes : its label, and the genes that it hits
    sides : rows of the fit: control, perturbed
    held : rows of the held-out control cells
    target_held : held-out perturbed cells, as positions in the dataset
    """

    name: str
    genes: tuple[str, ...]
    sides: Sides
    held: np.ndarray
    target_held: np.ndarray


def check(config: Config) -> None:
    """Refuse, before anything is computed, a dataset without perturbations, and a library or regulons that are not there.

    Raises
    ------
    SteerError
        What is missing, and how it is given.
    """
    require_perturbations(config, "knockdown")
    load_library(config.annotate.library)
    if config.knockdown.regulons is not None:
        load_regulons(config.knockdown.regulons, "knockdown.regulons")


def chosen(config: Config, obs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of data.perturbations that are fitted, those with most cells first.

    Raises
    ------
    SteerError
        No such perturbation, one without cells to fit or to score on, or none that has them.
    """
    settings = config.knockdown
    every = perturbations(obs, config.dataset, test_cells(obs, config.dataset)).iloc[1:]
    there = every["name"].tolist()
    named = [find_label(name, there, what="perturbation in knockdown.perturbations") for name in settings.perturbations]
    block = [find_label(name, there, what="perturbation in knockdown.block") for name in settings.block]
    enough = every[(every["fit"] >= settings.min_cells) & (every["test"] >= MIN_HELD)]
    some = (
        named or enough.sort_values("cells", ascending=False, kind="stable")["name"].head(settings.max_perturbations).tolist()
    )
    few = [name for name in some if name not in set(enough["name"])]
    if few or not some:
        have = ", ".join(f"{row.name_} ({row.fit} to fit on, {row.test} held out)" for row in
                         every.rename(columns={"name": "name_"}).head(12).itertuples())  # fmt: skip
        what = f"{few[0]} has fewer" if few else "no perturbation has them"
        raise SteerError(
            f"knockdown needs knockdown.min_cells={settings.min_cells} cells to fit on and {MIN_HELD} held out; {what}. There "
            f"are: {have}."
        )
    missing = [name for name in block if name not in some]
    if missing:
        raise SteerError(f"{missing[0]} of knockdown.block is not among the {len(some)} perturbations that are fitted.")
    return every.set_index("name", drop=False).loc[some]


def finder(config: Config) -> Callable[[pd.DataFrame], Split]:
    """Return what finds the control's cells as source, and those of all chosen perturbations as target."""

    def find(obs: pd.DataFrame) -> Split:
        names = chosen(config, obs)["name"].tolist()
        labels = perturbation_labels(obs, config.dataset).to_numpy()
        control = control_label(obs, config.dataset)
        parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in (control, *names):
            fit, test = (cells[labels[cells] == name] for cells in fit_and_test(obs, config.dataset))
            most = config.knockdown.max_cells * (CONTROLS if name == control else 1)
            share = len(test) / max(1, len(fit) + len(test))
            parts[name] = tuple(capped(fit, test, most, share, config.contrast.seed))  # type: ignore[assignment]
        if min(map(len, parts[control])) < MIN_HELD:
            raise SteerError(f"the control '{control}' has {len(parts[control][0])} cells to fit on and "
                             f"{len(parts[control][1])} held out; {MIN_HELD} of each are needed.")  # fmt: skip
        fit, held = (np.sort(np.concatenate([parts[name][i] for name in names])) for i in (0, 1))
        return Split(parts[control][0], parts[control][1], fit, held)

    return find


def find_targets(experiment: Experiment) -> list[Target]:
    """Return every perturbation with the cells that are fitted and scored."""
    config = experiment.context.config
    obs = experiment.activations.obs
    labels = perturbation_labels(obs, config.dataset).to_numpy()
    rng = np.random.default_rng([config.seed, 91])
    held = np.sort(rng.permutation(experiment.held_rows)[: config.knockdown.held_cells])
    control, perturbed = experiment.sides
    found = []
    for row in chosen(config, obs).itertuples():
        mine = perturbed[labels[experiment.cells[perturbed]] == row.name]
        target_held = experiment.split.target_held[labels[experiment.split.target_held] == row.name]
        found.append(Target(str(row.name), row.genes, Sides(control, mine), held, np.sort(target_held)))
    return found
