"""What does latent distance cost in expression?"""

from __future__ import annotations

from ...config import Config

CAPTIONS = {
    "pareto": "Share of the gap closed in the steered layer and in predicted expression as the mixed objective's weight "
    "goes from one to the other. Hollow: within the null in both.",
}
"""What is seen in each figure."""


def null_fits(config: Config) -> tuple[int, int, int]:
    """Return how many fits get a null: exact ones, those through the model, and how often both are repeated."""
    return 0, len(config.pareto.weights), 1
