"""Are the features that an objective recruits real, or overshoot on weak genes?"""

from __future__ import annotations

from ...config import Config

CAPTIONS = {
    "recruitment": "What tells recruited features from chance: a) refits on fewer genes, b) activity and effect over "
    "their noise floors, c) how many are recruited over lambda, d) the share of half-sample refits that find them "
    "again.",
    "lambda_path": "Features that each objective recruits as the penalty falls from left to right, counted above four "
    "thresholds of |theta|.",
    "widths": "The same fits on dictionaries of several widths: features recruited, how entangled their genes are, and "
    "the held-out cells' change of distance.",
}
"""What is seen in each figure."""


def null_fits(config: Config) -> tuple[int, int, int]:
    """Return how many fits get a null: exact ones, those through the model, and how often both are repeated."""
    widths = len(config.diagnose.expansions)
    return 2 + widths, 2 + len(config.diagnose.top_n) + widths, 1
