"""Do dictionaries generalise over tissues, and what do they share?"""

from __future__ import annotations

CAPTIONS = {
    "atlas": "a: unexplained variance of each tissue's dictionary (rows) on the held-out cells of each (columns), over that "
    "of the column's own, less 1; G generalises, P partly, N needs its own. b: similarity of features, 1 is as alike as two "
    "seeds. c: the pooled dictionary's features by how their rates differ over tissues, beside tissues dealt anew, at equal "
    "depth, and within a cell type where one is named.",
}
"""What is seen in each figure."""
