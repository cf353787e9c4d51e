"""What `steer granularity` would cost beyond the extraction, before anything runs."""

from __future__ import annotations

from ...activations.plan import PlannedBlock, duration
from ...config import Config
from .compute import THROUGH


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what the study would cost at the most, as people read it and as numbers."""
    settings = config.granularity
    labels = len(settings.labels) or settings.max_labels
    targets = labels * (labels - 1) + len(settings.programs)
    cells = labels * settings.max_cells
    edits = (len(THROUGH) + 2) * targets * settings.held_cells
    blocks = cells * block.arch.num_hidden_layers + edits * block.above
    seconds = blocks * block.seconds
    fits = targets * (settings.n_permutations + settings.n_random + 1) * len(settings.sizes)
    line = (
        f"targets   {targets} at the most; {cells:,} cells run once, {edits:,} steered; {blocks:,} blocks: some "
        f"{duration(seconds)}; {fits:,} exact refits (milliseconds each)"
    )
    return line, {"plan/granularity_targets": targets, "plan/granularity_blocks": blocks, "plan/granularity_seconds": seconds}
