"""The way from counts to scores: every step by its name, each built once and kept in the store."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ObjectiveConfig
from .activations import Activations, activations
from .annotation import Annotated, annotation
from .context import Context
from .dictionary import Dictionary, check_dictionary, dictionary
from .evaluation import Evaluation, evaluation
from .experiment import Experiment, prepare
from .fit import Recipe, fit


@dataclass(frozen=True)
class Pipeline(Context):
    """A config and a store; every method returns what it is called, building what is missing of it and of what it stands on.

    Every method raises SteerError where the settings do not fit the model, the data or each other.
    """

    def activations(self) -> Activations:
        """Return the model's activations over the dataset."""
        return activations(self)

    def dictionary(self) -> Dictionary:
        """Return the sparse autoencoder, trained or imported, with its scores."""
        check_dictionary(self.config)
        return dictionary(self, activations(self))

    def annotation(self) -> Annotated:
        """Return what the dictionary's features mean."""
        return annotation(self)

    def experiment(self, *, scored: bool = False) -> Experiment:
        """Return the contrast's cells on the dictionary; `scored` refuses too few test cells before anything is computed."""
        return prepare(self, scored=scored)

    def fit(self, objective: ObjectiveConfig | None = None) -> Recipe:
        """Return the recipe of an objective, by default the configured one."""
        return fit(prepare(self), objective or self.config.objective)

    def evaluation(self) -> Evaluation:
        """Return the scores of the configured objectives on held-out cells, beside their controls and nulls."""
        return evaluation(self)
