"""Does the dictionary know a real perturbation: its DE genes, its pathway, and its gene's programmes?"""

from __future__ import annotations

CAPTIONS = {
    "knockdown": "a: cosine of the recipes' shifts, feature by feature, in the order of their clustering; bold: "
    "the named pathway. b: area under the precision-recall curve of the real DE genes, ranked by the predicted change in "
    "held-out control cells; grey: 95 % of the permutation null; |: random features; x: dense vector; o: one half of the "
    "held-out perturbed cells; dotted: chance.",
}
"""What is seen in each figure."""
