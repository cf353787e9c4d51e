"""What does a feature at one layer do at later layers and at the head?"""

from __future__ import annotations

from dataclasses import replace

from ...config import Config, LayerConfig

CAPTIONS = {
    "circuit": "Features of each layer (columns) and the genes that they move, joined by what switching one off does to the "
    "next: width is the effect's size, colour its sign, grey what is no more than the nulls. Each node's strongest alone; "
    "above a layer, what of the recipe's effect goes through it.",
    "degrees": "How many edges a source has over how often it fires: where the two go together, a degree says little.",
}
"""What is seen in each figure."""


def at_layer(config: Config, layer: int) -> Config:
    """Return the settings of one of the circuit's layers: one extraction stores them all, and each has its own dictionary."""
    circuits = config.circuits
    extract = replace(config.extract, layers=list(circuits.layers))
    sae = config.sae
    if circuits.paths:
        sae = replace(sae, path=circuits.paths[circuits.layers.index(layer)])
    return replace(config, layer=LayerConfig(layer), extract=extract, sae=sae)
