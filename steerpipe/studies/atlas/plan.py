"""What `steer atlas` would cost beyond the command's own extraction, before anything runs."""

from __future__ import annotations

from ...activations.plan import PlannedBlock, duration
from ...config import Config

TOKENS_A_SECOND = 25_000
"""Of a training, on two cores at width 128 and x8; a wider model is slower, a GPU quicker."""


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what the study would cost, as people read it and as numbers."""
    settings = config.atlas
    n = settings.max_tissues if settings.split is not None else len(settings.datasets)
    trainings = n * len(settings.seeds) + 2 * settings.pooled
    tokens = n * len(settings.seeds) * config.sae.tokens + settings.pooled * (1 + n) * config.sae.tokens
    saes = 1 + n + 2 * settings.pooled
    blocks = float(n * config.score.cells * (block.arch.num_hidden_layers + saes * block.above)) if settings.fidelity else 0.0
    seconds = tokens / TOKENS_A_SECOND + blocks * block.seconds
    line = (
        f"atlas of {n} tissues, each extracted as this one; {trainings} trainings, {tokens:,} tokens; {blocks:,.0f} blocks of "
        f"fidelity: some {duration(seconds)} beside the extractions"
    )
    return line, {"plan/atlas_trainings": trainings, "plan/atlas_tokens": tokens, "plan/atlas_seconds": seconds}
