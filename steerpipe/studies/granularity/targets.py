"""The targets: every ordered pair of labels, and gene programmes within labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...config import Config
from ...data.genesets import GeneSets, find_set, load_library
from ...errors import SteerError
from ...pipeline.experiment import Experiment, Sides
from ...steering.program import Program, score_weights
from ..labelled import chosen_labels, require_label

LEAST_GENES = 3


@dataclass(frozen=True)
class Target:
    """One change of state.

    Attributes
    ----------
    name : `A -> B`, or the programme's
    kind : pair or programme
    sides : rows of the fit
    held : rows of the held-out source cells
    target_held : held-out target cells, as positions in the dataset
    others : (n, D), ways from the source's mean to the means of all other labels, of the fit's cells
    """

    name: str
    kind: str
    sides: Sides
    held: np.ndarray
    target_held: np.ndarray
    others: np.ndarray


def check(config: Config) -> None:
    """Refuse, before anything is computed, a dataset without labels, and a library or programmes that do not exist.

    Raises
    ------
    SteerError
        What is missing, and how it is given.
    """
    require_label(config, "granularity")
    for name in config.granularity.programs:
        find_set(name, "granularity.programs")
    load_library(config.annotate.library)


def find_targets(experiment: Experiment) -> list[Target]:
    """Return every ordered pair of labels, then the programmes."""
    config = experiment.context.config
    assert config.dataset.label is not None
    every = experiment.activations.obs[config.dataset.label].astype(str).to_numpy()[experiment.cells]
    names = [name for name in chosen_labels(config, experiment.activations.obs, "granularity") if (every == name).any()]
    fit, held = ({name: rows[every[rows] == name] for name in names} for rows in (experiment.fit_rows, experiment.held_rows))
    means = {name: _mean(experiment, fit[name]) for name in names}
    rng = np.random.default_rng([config.seed, 81])
    most = config.granularity.held_cells

    def some(rows: np.ndarray) -> np.ndarray:
        return np.sort(rng.permutation(rows)[:most])

    def target(name: str, kind: str, sides: Sides, held_out: Sides, apart: Sequence[str]) -> Target:
        start = _mean(experiment, sides.source)
        others = [means[other] - start for other in names if other not in apart]
        ways = np.array(others).reshape(len(others), len(start))
        held_target = np.sort(experiment.cells[some(held_out.target)])
        return Target(name, kind, sides, some(held_out.source), held_target, ways)

    pairs = [(a, b) for a in names for b in names if a != b]
    targets = [target(f"{a} -> {b}", "pair", Sides(fit[a], fit[b]), Sides(held[a], held[b]), (a, b)) for a, b in pairs]
    for name in config.granularity.programs:
        title, score = _program_score(experiment, name)
        targets.append(target(title, "programme", _within(score, fit), _within(score, held), ()))
    return targets


def _mean(experiment: Experiment, rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.asarray(experiment.layer[experiment.cells[rows]], np.float64).mean(0))


def _program_score(experiment: Experiment, name: str) -> tuple[str, np.ndarray]:
    """A programme's name, and its score in every row, of predicted expression."""
    title, members = find_set(name, "granularity.programs")
    found = GeneSets(name, (title,), ("",), (members,)).matrix(experiment.genes)
    if len(found.indices) < LEAST_GENES:
        raise SteerError(f"granularity.programs: {title} has {len(found.indices)} genes of the data; {LEAST_GENES} are needed.")
    program = Program(np.sort(found.indices).astype(np.int64), np.zeros(0, np.int64))
    level = np.asarray(experiment.counts[experiment.fit_rows].mean(0), np.float64)
    rng = np.random.default_rng([experiment.context.config.seed, 82])
    weights = score_weights(program, level, np.ones(len(level), bool), rng)
    return title, np.asarray(experiment.expression[experiment.cells] @ weights)


def _within(score: np.ndarray, labels: Mapping[str, np.ndarray]) -> Sides:
    """Every label's third of lowest and its third of highest score, so that both sides have the same labels."""
    low, high = zip(*(_thirds(score, rows) for rows in labels.values()), strict=True)
    return Sides(np.concatenate(low), np.concatenate(high))


def _thirds(score: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of lowest and of highest score, a third each."""
    order = rows[np.argsort(score[rows], kind="stable")]
    third = max(1, len(order) // 3)
    return np.sort(order[:third]), np.sort(order[-third:])
