"""What `steer circuits` would cost beyond the extraction, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from ...activations.plan import PlannedBlock, duration, forward_flops
from ...config import Config
from . import at_layer


@dataclass(frozen=True)
class CircuitPlan:
    """The cost of a circuit.

    Attributes
    ----------
    blocks : blocks of one cell that the ablations and their nulls run
    encodings : dictionaries' encodings of one cell's stream
    further : blocks of the gradients and of the mediation, a backward pass being two
    bytes : on disk, the cells' streams at every layer
    seconds : from one timed block; encodings by their FLOP
    """

    blocks: int
    encodings: int
    further: int
    bytes: int
    seconds: float

    def lines(self) -> str:
        """Return the plan as people read it."""
        return (
            f"circuits  {self.blocks:,} blocks and {self.encodings:,} encodings of a cell for ablations and nulls, "
            f"{self.further:,} blocks for gradients and mediation: some {duration(self.seconds)} in all, shared by "
            f"circuits.parts; {self.bytes / 1e9:.3g} GB of streams"
        )


def extraction(config: Config) -> Config:
    """Return the settings of the extraction that a circuit stands on: one stores all of its layers."""
    return at_layer(config, config.circuits.layers[0])


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what a circuit would cost, as people read it and as numbers."""
    found = circuit_plan(config, block)
    return found.lines(), {"plan/circuit_blocks": found.blocks, "plan/circuit_seconds": found.seconds}


def circuit_plan(config: Config, block: PlannedBlock) -> CircuitPlan:
    """Plan a circuit; the genes that the dataset has are those whose tokens are encoded."""
    settings, arch, n_valid = config.circuits, block.arch, len(block.genes)
    layers, cells, last = settings.layers, settings.max_cells, arch.num_hidden_layers - 1
    trials = 1 + int(settings.dose) + 2 * settings.n_random
    per_layer = settings.n_sources * trials * cells
    blocks = sum((last - layer) * (per_layer + cells) for layer in layers)
    encodings = sum((len(layers) - i - 1) * (per_layer + cells) + 2 * cells for i in range(len(layers)))
    further = 0
    for i, layer in enumerate(layers):
        for later in layers[i + 1 :]:
            further += (1 + 2 * settings.n_targets) * settings.gradient_cells * (later - layer)
            effects = settings.n_mediated + int(settings.recipe is not None and i == 0)
            further += effects * cells * (later - layer + (2 + 2 * settings.held_draws) * (last - later))
    width = arch.hidden_size
    tokens = arch.max_position_embeddings + 2
    encoding = 2 * n_valid * width * config.sae.expansion * width / forward_flops(arch, tokens, 1)
    seconds = block.seconds * (blocks + further + encodings * encoding)
    return CircuitPlan(blocks, encodings, further, 4 * len(layers) * cells * tokens * width, seconds)
