"""What `steer regulation` would cost beyond the extraction, before anything runs."""

from __future__ import annotations

from ...activations.plan import PlannedBlock, duration
from ...config import Config
from ...data.regulons import find_regulons, load_regulons

LAST_BLOCK = 0.25
"""Cost of a last block of which one token is read, over that of a whole one: keys and values are of every token."""


def cost(config: Config, block: PlannedBlock) -> tuple[str, dict[str, float]]:
    """Return what the study would cost at the most, as people read it and as numbers; the regulons are read, nothing is run."""
    settings, above = config.regulation, block.above
    regulons = find_regulons(load_regulons(settings.regulons), block.genes, min_targets=settings.min_targets)
    chosen = [one for one in regulons if not settings.tfs or one.tf in settings.tfs]
    trials = settings.max_features * settings.max_cells * sum(alpha != 1 for alpha in settings.alphas)
    every = trials * len(chosen) * (1 + settings.n_random)
    arms = 1 + settings.n_random + settings.n_dealt
    one = trials * sum(min(settings.max_targets, len(regulon.targets)) for regulon in chosen) * arms
    seconds = block.seconds * (every * above + one * max(LAST_BLOCK, above - 1 + LAST_BLOCK))
    line = (
        f"steering  {len(chosen)} TFs, at the most {every:,} passes that read every gene and {one:,} that read one, "
        f"{above} blocks each: some {duration(seconds)}"
    )
    return line, {"plan/regulation_passes": every + one, "plan/regulation_seconds": seconds}
