"""What is seen in each figure, by the name that it is saved under: pages put it below. A study's are in its own folder."""

from __future__ import annotations

from collections.abc import Mapping

CAPTIONS = {
    "headline": "Every headline score of each fit on held-out cells, with its interval. Thick grey: 95 % of its null; "
    "bar: where arrival would be; hollow: within the null.",
    "mirror_boxplot": "Change of each held-out cell's distance to the target, below 0 is closer: every fit (columns) "
    "scored in latent space and in predicted expression. Grey: its null; white: no better than that.",
    "plane": "Held-out cells before and after each fit, joined by lines, beside the target cells. Across: how far along "
    "the way from the source's mean (0) to the target's (1). Up: the largest component of what is not on that way.",
    "before_after": "Each held-out cell's distance to the target before and after. Below the line it ends closer.",
    "sparsity": "Features recruited as the penalty falls from left to right, counted above four thresholds of |theta|.",
    "feature_counts": "Features that each fit recruits at the lambda in use, counted above four thresholds of |theta|.",
    "waterfall": "Theta of the recruited features, strongest first, with the label where one was given. Above 0 the "
    "feature is turned up, below 0 down.",
    "umap": "The contrast's cells on a UMAP of the unsteered ones, and where the held-out source cells come to lie when "
    "steered.",
    "dictionaries": "Each dictionary's share of annotated features beside the share that matched random gene sets reach, "
    "how many genes a feature is spread over, and how specific its terms are.",
    "feature_graph": "Features joined where their gene sets overlap, to their three nearest ones each. The ten largest "
    "modules are coloured and named.",
    "training_curve": "Unexplained variance, active features a token and dead features over the tokens trained on.",
    "features": "How often the features fire on held-out tokens, and how alike each one's direction is to its nearest other.",
    "baselines": "Unexplained variance and spliced-in fidelity of the dictionary on held-out cells, beside its baselines.",
    "frontier": "Every dictionary of the sweep: unexplained variance over active features a token, dead features over "
    "width, and fidelity over stability where both were measured.",
    "feature": "One feature's genes, cell types and terms, and the genes that move when it alone is multiplied by alpha "
    "(1: no change) beside random features and directions.",
}


def caption_of(name: str, captions: Mapping[str, str] = CAPTIONS) -> str:
    """Return the caption of a figure, `feature_17` being a `feature`; its name in words where there is none."""
    words = name.split("_")
    kinds = ("_".join(words[:n]) for n in range(len(words), 0, -1))
    return next((captions[kind] for kind in kinds if kind in captions), f"{' '.join(words).capitalize()}.")
