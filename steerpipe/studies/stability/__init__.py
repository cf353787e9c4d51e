"""Which features come back when only the seed of the training changes?"""

from __future__ import annotations

CAPTIONS = {
    "seed_matches": "How alike the matched features of two trainings that differ in their seed are, beside matched random "
    "ones.",
    "feature_stability": "How many features, and how much of the energy, are found by which share of the other seeds.",
}
"""What is seen in each figure."""
