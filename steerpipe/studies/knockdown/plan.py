"""What `steer knockdown` would cost beyond the extraction, before anything runs."""

from __future__ import annotations

from ...activations.plan import PlannedBlock, duration
from ...config import Config
from ...pipeline.null_plan import GRADIENTS, PASSES
from .targets import CONTROLS


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what the study would cost at the most, as people read it and as numbers."""
    settings = config.knockdown
    n = len(settings.perturbations) or settings.max_perturbations
    cells = (n + CONTROLS) * settings.max_cells
    blocks, refits = float(cells * block.arch.num_hidden_layers), 0
    for name in settings.objectives:
        deals = settings.n_permutations if name == "latent" else config.evaluate.n_permutations_model
        blocks += n * (deals + settings.n_random + 3) * settings.held_cells * block.above
        if name == "latent":
            refits += n * (deals + 1)
        else:
            blocks += n * (deals + 1) * GRADIENTS * PASSES * config.objective.max_cells * block.above
    seconds = blocks * block.seconds
    line = (
        f"knockdown {n} perturbations at the most; {cells:,} cells run once; {blocks:,.0f} blocks: some {duration(seconds)}; "
        f"{refits:,} exact refits (milliseconds each)"
    )
    return line, {"plan/knockdown_perturbations": n, "plan/knockdown_blocks": blocks, "plan/knockdown_seconds": seconds}
