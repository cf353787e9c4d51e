"""What `steer adapter` would cost beyond the extraction, before anything runs."""

from __future__ import annotations

from ...activations.plan import PlannedBlock, duration
from ...config import Config
from ...pipeline.null_plan import PASSES
from .predict import TOP
from .targets import CONTROLS

STEP_SECONDS = 0.02
"""Of a training step, on two cores; a GPU is quicker."""


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what the study would cost at the most, as people read it and as numbers."""
    settings = config.adapter
    depth = block.arch.num_hidden_layers
    if settings.task == "inverse":
        n, cells = settings.max_labels, settings.max_labels * settings.max_cells
        folds = min(settings.folds, n)
        trainings = folds * (2 * len(settings.networks) - ("lista" in settings.networks))
        arms = 1 + trainings // folds
        blocks = float(cells * depth + settings.scored_pairs * arms * settings.held_cells * block.above)
        if settings.through == "model":
            blocks += trainings * settings.model_steps * 2 * PASSES * config.objective.max_cells * block.above
        what = f"{n} labels, {n * (n - 1)} pairs; {trainings} trainings"
    else:
        n, cells = settings.max_perturbations, (settings.max_perturbations + CONTROLS) * settings.max_cells
        trainings = settings.folds * len(settings.networks) * (1 + settings.n_shuffled)
        arms = 2 + len(settings.networks) * (1 + settings.n_shuffled + TOP)
        blocks = float(cells * depth + n * arms * settings.held_cells * block.above)
        what = f"{n} perturbations at the most; {trainings} trainings, {arms} predictions of each"
    seconds = blocks * block.seconds + trainings * settings.steps * STEP_SECONDS
    line = f"adapter {what}; {cells:,} cells run once; {blocks:,.0f} blocks: some {duration(seconds)}"
    return line, {"plan/adapter_trainings": trainings, "plan/adapter_blocks": blocks, "plan/adapter_seconds": seconds}
