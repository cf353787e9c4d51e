"""Adapters: what a network makes of a state or of a perturbation's name, beside the exact solver and what knows nothing."""

from __future__ import annotations

CAPTIONS = {
    "inverse": "Pairs of labels whose target was never trained on. a: objective above the exact optimum. b: share of the gap "
    "closed in held-out cells, each network's beside the exact recipe's; grey: within the network's permutation null.",
    "prediction": "a: correlation of predicted and real change of held-out perturbations, of cells that nothing saw; a dot a "
    "perturbation, the bar its median; grey: networks trained on shuffled targets. b, c: predicted over real change of every "
    "gene in the best and the worst prediction, and the recipe it came from.",
}
"""What is seen in each figure."""
