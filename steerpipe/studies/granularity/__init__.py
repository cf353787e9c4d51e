"""What is a unit of steering: one feature, a module, a handful of features, or a continuum?"""

from __future__ import annotations

CAPTIONS = {
    "granularity": "a: share of the dense vector's gap that the first n features of the exact path close in held-out cells, a "
    "line a target in its verdict's colour; grey: random features; points: the best component at its size; dashed, right axis: "
    "movement towards other labels. b: features for half of that gap, a row a target.",
}
"""What is seen in each figure."""
