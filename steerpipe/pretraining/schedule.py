"""The learning rate over the steps of pretraining."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, *, warmup: int, floor: float = 0.02) -> float:
    """Return the share of the peak learning rate: linear warm-up, then a cosine down to `floor`."""
    warmup = min(warmup, max(1, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
