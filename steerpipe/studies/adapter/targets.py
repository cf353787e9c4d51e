"""Task B's targets: perturbations (in cell types), the cells of each that are known and scored, and who trains for whom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...config import Config
from ...data.contrast import Split, capped
from ...data.perturbations import control_label, perturbation_labels, perturbations
from ...data.split import fit_and_test, test_cells
from ...errors import SteerError, unknown
from ...pipeline.experiment import Experiment
from ..labelled import require_perturbations

log = logging.getLogger(__name__)
MIN_HELD = 8
"""Held-out cells of a perturbation, and of the control."""
CONTROLS = 4
"""Control cells, over adapter.max_cells."""
EVERYWHERE = ""


@dataclass(frozen=True)
class Target:
    """A perturbation, in one cell type where those are left out.

    Attributes
    ----------
    name : the perturbation, with `in TYPE` where there are types
    genes : the genes that it hits
    context : the cell type, or EVERYWHERE
    fold : its part; -1 for a perturbation of dataset.held, which model and dictionary never saw either
    control, held : rows of control cells to fit on, and held out
    steered : those of the held-out ones that run through the model
    known : perturbed cells that training, oracles and the ceiling may use, as positions in the dataset
    scored : perturbed cells that predictions are scored on, positions too
    """

    name: str
    genes: tuple[str, ...]
    context: str
    fold: int
    control: np.ndarray
    held: np.ndarray
    steered: np.ndarray
    known: np.ndarray
    scored: np.ndarray


def check(config: Config) -> None:
    """Refuse, before anything is computed, a dataset without perturbations.

    Raises
    ------
    SteerError
        How they are given.
    """
    require_perturbations(config, "adapter=perturbation")
    if config.adapter.split == "cell_type" and config.dataset.label in (None, config.dataset.perturbation):
        raise SteerError("adapter.split=cell_type leaves labels out: set dataset.label to the obs column of cell types.")


def contexts(config: Config, obs: pd.DataFrame) -> np.ndarray:
    """Return each cell's cell type, or EVERYWHERE unless those are left out, str (N,)."""
    if config.adapter.split != "cell_type":
        return np.full(len(obs), EVERYWHERE, dtype=object)
    if config.dataset.label not in obs:
        raise unknown("label column", str(config.dataset.label), obs.columns)
    return np.asarray(obs[config.dataset.label].astype(str))


def chosen(config: Config, obs: pd.DataFrame) -> list[tuple[str, str, tuple[str, ...], bool]]:
    """Return (perturbation, context, genes, held) of what has enough cells, those with most cells first.

    Raises
    ------
    SteerError
        Fewer than three have them, or no doubles where doubles are left out.
    """
    settings = config.adapter
    table = perturbations(obs, config.dataset, test_cells(obs, config.dataset)).set_index("name", drop=False)
    control = control_label(obs, config.dataset)
    cells = pd.DataFrame({"name": perturbation_labels(obs, config.dataset).to_numpy(), "context": contexts(config, obs)})
    cells["test"] = test_cells(obs, config.dataset)
    sizes = cells.groupby(["name", "context"])["test"].agg(["size", "sum"]).reset_index()
    controls = sizes[sizes["name"] == control].set_index("context")
    found = []
    for row in sizes[sizes["name"] != control].sort_values("size", ascending=False, kind="stable").itertuples():
        held = bool(table.loc[row.name, "held"])
        known = row.size // 2 if held else row.size - row.sum
        enough = row.size >= settings.min_cells and min(known, row.sum - (known if held else 0)) >= MIN_HELD
        if enough and row.context in controls.index and controls.loc[row.context, "sum"] >= MIN_HELD:
            found.append((str(row.name), str(row.context), table.loc[row.name, "genes"], held))
    found = found[: settings.max_perturbations]
    doubles = [one for one in found if len(one[2]) > 1]
    if len(found) < 3 or (settings.split == "combination" and not doubles):
        have = ", ".join(f"{row.name} ({row.size})" for row in sizes[["name", "size"]].head(12).itertuples(index=False))
        what = "no double perturbation" if len(found) >= 3 else f"{len(found)} targets"
        raise SteerError(
            f"adapter=perturbation needs three targets, and doubles with adapter.split=combination, of adapter.min_cells="
            f"{settings.min_cells} cells, {MIN_HELD} of them held out, with as many held-out controls; there is {what}: {have}."
        )
    return found


def finder(config: Config) -> Callable[[pd.DataFrame], Split]:
    """Return what finds the control's cells as source, and all perturbed cells as those that are not streamed."""

    def find(obs: pd.DataFrame) -> Split:
        names = perturbation_labels(obs, config.dataset).to_numpy()
        where, control = contexts(config, obs), control_label(obs, config.dataset)
        some = chosen(config, obs)
        fit, test = fit_and_test(obs, config.dataset)

        def of(name: str, context: str, most: int) -> list[np.ndarray]:
            mine = [part[(names[part] == name) & (where[part] == context)] for part in (fit, test)]
            share = len(mine[1]) / max(1, len(mine[0]) + len(mine[1]))
            return capped(mine[0], mine[1], most, share, config.contrast.seed)

        types = list(dict.fromkeys(context for _, context, _, _ in some))
        most = config.adapter.max_cells * CONTROLS
        sides = [of(control, context, most if context == EVERYWHERE else config.adapter.max_cells) for context in types]
        perturbed = [part for name, context, _, _ in some for part in of(name, context, config.adapter.max_cells)]
        source, held = (np.sort(np.concatenate([side[i] for side in sides])) for i in (0, 1))
        return Split(source, held, np.zeros(0, np.int64), np.sort(np.concatenate(perturbed)))

    return find


def find_targets(experiment: Experiment) -> list[Target]:
    """Return every target with its cells and its fold."""
    config = experiment.context.config
    obs = experiment.activations.obs
    names, where = perturbation_labels(obs, config.dataset).to_numpy(), contexts(config, obs)
    test = test_cells(obs, config.dataset)
    some = chosen(config, obs)
    rng = np.random.default_rng([config.seed, 111])
    units = list(
        dict.fromkeys(context if config.adapter.split == "cell_type" else name for name, context, _, held in some if not held)
    )
    n_folds = min(config.adapter.folds, len(units))
    folds = {str(unit): at % n_folds for at, unit in enumerate(rng.permutation(units))}
    found = []
    for name, context, genes, held in some:
        rows = [
            some_rows[where[experiment.cells[some_rows]] == context]
            for some_rows in (experiment.fit_rows, experiment.held_rows)
        ]
        perturbed = experiment.split.target_held
        mine = perturbed[(names[perturbed] == name) & (where[perturbed] == context)]
        known, scored = mine[~test[mine]], mine[test[mine]]
        if held:  # none of its cells is to be fitted on: half of them are known to the oracles alone
            known, scored = (np.sort(part) for part in np.array_split(rng.permutation(mine), 2))
        unit = context if config.adapter.split == "cell_type" else name
        label = f"{name} in {context}" if context != EVERYWHERE else name
        steered = np.sort(rng.permutation(rows[1])[: config.adapter.held_cells])
        found.append(Target(label, genes, context, -1 if held else folds[unit], rows[0], rows[1], steered, known, scored))
    return found


def left_out(targets: list[Target], split: str) -> list[tuple[list[int], list[int]]]:
    """Return (training, scored) targets of every fold, by their numbers.

    perturbation: none that is trained on shares a gene with one that is scored. combination: doubles are scored, by singles
    and the other folds' doubles. cell_type: the types of a fold are scored. Perturbations of dataset.held are scored by
    what was trained on all others, and never trained on.
    """
    parts = []
    for fold in sorted({one.fold for one in targets}):
        scored = [i for i, one in enumerate(targets) if one.fold == fold and (split != "combination" or len(one.genes) > 1)]
        genes = {gene for i in scored for gene in targets[i].genes}
        training = [i for i, one in enumerate(targets) if i not in scored and one.fold >= 0]
        if split == "perturbation":
            training = [i for i in training if not genes & set(targets[i].genes)]
        elif split == "combination":
            training = [i for i in training if len(targets[i].genes) == 1 or targets[i].fold != fold]
        if scored and len(training) >= 2:
            parts.append((training, scored))
        elif scored:
            log.warning("%s: fewer than two perturbations are left to train on; not scored.",
                        ", ".join(targets[i].name for i in scored))  # fmt: skip
    if not parts:
        raise SteerError(
            "no fold has two perturbations to train on that share no gene with those that are scored: take fewer folds."
        )
    return parts
