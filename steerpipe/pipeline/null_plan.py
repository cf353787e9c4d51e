"""What the permutation nulls of a command would cost, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from ..activations.plan import duration
from ..config import Config
from ..data.contrast import split_contrast

GRADIENTS = 8
"""Gradients of one null fit through the model, as a rule."""
PASSES = 4
"""Forward passes that a gradient costs: one for the mean, one forward, and two for the way back."""


class NullFits(NamedTuple):
    """Fits of a command that get a null: exact ones, those through the model, and how often both are repeated."""

    latent: int
    through: int
    times: int = 1


def evaluated_fits(config: Config) -> NullFits:
    """Return the fits of an evaluation."""
    named = [config.objective.named(name).name for name in config.evaluate.objectives]
    latent = named.count("latent")
    return NullFits(latent, len(named) - latent, config.evaluate.dictionaries)


@dataclass(frozen=True)
class NullPlan:
    """The cost of a command's nulls.

    Attributes
    ----------
    fits : fits that get a null; through : those of them through the model
    latent_refits, model_refits : refits in all; the latent ones are exact and take milliseconds
    seconds : of refits and scores through the model; latent refits are left out
    """

    fits: int
    through: int
    latent_refits: int
    model_refits: int
    seconds: float

    def lines(self) -> str:
        """Return the plan as people read it."""
        text = f"null      {self.fits} fits; {self.latent_refits:,} exact refits (milliseconds each)"
        model = f", {self.model_refits:,} through the model" if self.model_refits else ""
        return f"{text}{model}: some {duration(self.seconds)} with their scores"


def null_plan(config: Config, fits: NullFits, obs: pd.DataFrame, *, block_seconds: float, blocks_above: int) -> NullPlan:
    """Plan the nulls of a command.

    Parameters
    ----------
    obs : of all cells: how many are scored is counted
    block_seconds : of one block for one cell
    blocks_above : blocks above the steered layer
    """
    settings, objective = config.evaluate, config.objective
    latent, through, times = fits
    split = split_contrast(obs, config.contrast, config.dataset, max_cells=config.model.contrast_cells)
    scored = min(settings.max_cells, len(split.source_held))
    one_pass = blocks_above * block_seconds
    refits, n = times * through * settings.n_permutations_model, settings.n_permutations_model
    seconds = refits * GRADIENTS * PASSES * objective.max_cells * one_pass
    seconds += times * (latent + through) * n * scored * one_pass
    return NullPlan(times * (latent + through), times * through, times * latent * settings.n_permutations, refits, seconds)
