"""Does a recipe that is fitted on some cell types steer others?"""

from __future__ import annotations

from ...config import Config

CAPTIONS = {
    "transfer": "Change of E-distance of each held-out cell type (columns) under fits to its own and to other types "
    "(rows). Uncoloured: the null does as well.",
    "transfer_markers": "Share of each marker's gap that is closed by the fit to the type itself and by the fit to the others.",
}
"""What is seen in each figure."""


def null_fits(config: Config) -> tuple[int, int, int]:
    """Return how many fits get a null: exact ones, those through the model, and how often both are repeated."""
    n_types = len(config.transfer.types) or config.transfer.n_types
    return 2 * n_types, 2 * n_types, 1
