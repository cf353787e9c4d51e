"""A circuit, layer by layer: which features are switched off at each, and which pairs are edges."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from ...errors import SteerError
from ...pipeline.context import Context
from ...progress import track
from . import at_layer
from .compute import Circuit, Responses, responses
from .network import LayerCodes, Level
from .pairs import Judged, judge, measure

log = logging.getLogger(__name__)


class Exploration:
    """One circuit, layer by layer.

    Attributes
    ----------
    responses : {layer: of its sources}
    judged : every pair of a layer and a later level
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit, self.config = circuit, circuit.context.config.circuits
        self.codes = {layer: LayerCodes(circuit.network, layer) for layer in circuit.layers}
        self.responses: dict[int, Responses] = {}
        self.judged: list[Judged] = []

    @property
    def theta(self) -> dict[tuple[int, int], float]:
        """{(first layer, feature): theta} of the recipe's features among the sources; none without a recipe."""
        recipe, first = self.circuit.recipe, self.circuit.layers[0]
        return {} if recipe is None else {(first, int(f)): float(recipe.theta[f]) for f in self.responses[first].sources}

    def run(self) -> bool:
        """Ablate every layer's sources and judge the pairs; whether all of them are there."""
        blocks = []
        for layer in self.circuit.layers:
            made = responses(self.circuit, layer, self.sources(layer))
            if made is None:
                return False
            self.responses[layer] = made
            for level in made.clean:
                key = self.circuit.layers.index(level) if isinstance(level, int) else len(self.circuit.layers)
                recorded = track((made.of(int(s)) for s in made.sources), f"{layer} to {level}", len(made.sources))
                blocks.append(
                    measure(
                        layer,
                        level,
                        made.sources,
                        recorded,
                        made.clean[level],
                        made.firing,
                        min_cells=self.config.min_cells,
                        n_permutations=self.config.n_permutations,
                        rng=np.random.default_rng([self.config.seed, layer, key, 63]),
                    )
                )
            self.judged = judge(blocks, self.config.fdr) if blocks else []
        return True

    def sources(self, layer: int) -> np.ndarray:
        """Choose a layer's sources, int64 (n_sources at the most,), strongest first.

        Raises
        ------
        SteerError
            No such feature, or none that fires in circuits.min_cells cells.
        """
        config, circuit = self.config, self.circuit
        activity = self.codes[layer].activity()
        fires = (activity > 0).sum(0) >= config.min_cells
        strength, first = activity.mean(0), layer == circuit.layers[0]
        if first and config.sources:
            outside = [f for f in config.sources if not 0 <= f < len(fires)]
            if outside:
                raise SteerError(f"feature {outside[0]} of circuits.sources does not exist: there are 0 to {len(fires) - 1}.")
            silent = [f for f in config.sources if not fires[f]]
            if silent:
                msg = f"feature {silent[0]} of circuits.sources fires in fewer than {config.min_cells} of the "
                raise SteerError(f"{msg}{len(circuit.cells)} cells: leave it out, or lower circuits.min_cells.")
            return np.array(list(dict.fromkeys(config.sources)))
        what = f"features of layer {layer}"
        if first and circuit.recipe is not None:
            strength = strength * np.abs(circuit.recipe.theta)
            what = f"recruited features of circuits.recipe={config.recipe} at layer {layer}"
        elif not first and (config.sources or circuit.recipe is not None):
            reached = self.reached(circuit.layers[0], layer)
            if reached.any():
                strength = reached
            else:
                log.info("layer %d: nothing reaches it, so that its most active features are taken", layer)
        chosen = np.flatnonzero(fires & (strength > 0))
        if not len(chosen):
            raise SteerError(f"none of the {what} fires in circuits.min_cells={config.min_cells} cells: lower it.")
        chosen = chosen[np.argsort(-strength[chosen], kind="stable")][: config.n_sources]
        log.info("layer %d: %d sources of the %d %s that fire", layer, len(chosen), int((fires & (strength > 0)).sum()), what)
        return chosen

    def one(self, layer: int, level: Level) -> Judged:
        """Return the pairs of a layer and a level."""
        return next(j for j in self.judged if j.block.layer == layer and j.block.level == level)

    def reached(self, layer: int, level: int) -> np.ndarray:
        """Return how strongly the sources of a layer move each feature of a later one, float64 (F,).

        It is the sum of their |effect| of small q, edges or not, each times the recipe's |theta| where there is one.
        """
        found = self.one(layer, level)
        dose = np.array([abs(self.theta.get((layer, int(s)), 1.0)) for s in found.block.sources])
        total = np.zeros(self.circuit.network.saes[level].n_features)
        total[found.block.targets] = (dose[:, None] * found.sizes).sum(0)
        return total

    def at(self, layer: int) -> Context:
        """Return the context of one layer's dictionary."""
        context = self.circuit.context
        return replace(context, config=at_layer(context.config, layer))
