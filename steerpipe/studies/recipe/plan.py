"""What `steer recipe` would cost beyond the extraction, before anything runs."""

from __future__ import annotations

from ...activations.plan import PlannedBlock, duration
from ...config import Config
from ...pipeline.null_plan import GRADIENTS, PASSES

PROGRAM_GENES = 15
"""Genes of the programme that are perturbed at the most, to be reported apart."""


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what the study would cost at the most, as people read it and as numbers."""
    settings, below = config.recipe, block.arch.num_hidden_layers - block.above
    named = isinstance(settings.candidates, list)
    genes = min(len(settings.candidates) if named else settings.max_candidates, len(block.genes))
    passes = 2 * (genes + PROGRAM_GENES) * settings.n_cells
    gene = 2 * settings.n_cells * below * block.seconds
    nulls = config.evaluate.n_permutations_model
    fits = (3 * config.objective.max_steps + GRADIENTS * nulls) * PASSES * config.objective.max_cells * block.above
    edits = (3 + settings.n_random + max(1, settings.n_random // 4) + nulls) * settings.held_cells * block.above
    loop = (1 + settings.n_named + settings.n_random + 1) * settings.held_cells * block.arch.num_hidden_layers
    seconds = block.seconds * (passes * below + fits + edits + loop)
    line = (
        f"recipe    {genes} candidates and {PROGRAM_GENES} genes of the programme, {passes:,} passes of {below} blocks "
        f"({duration(gene)} a gene); fit, null, scores and loop {fits + edits + loop:,} blocks: some {duration(seconds)}"
    )
    return line, {"plan/recipe_passes": passes, "plan/recipe_gene_seconds": gene, "plan/recipe_seconds": seconds}
