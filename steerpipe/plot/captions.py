"""What is seen in each figure, by the name that it is saved under: pages put it below the figure."""

from __future__ import annotations

CAPTIONS = {
    "headline": "How far each recipe moves the held-out population, beside its null and the controls.",
    "mirror_boxplot": "Change of each held-out cell's distance to the target, per recipe, in both geometries, with its null.",
    "plane": "Held-out cells before and after steering: along the way from source to target, and across it.",
    "before_after": "Each held-out cell's distance to the target before and after steering.",
    "sparsity": "Features recruited along the path of lambda, counted above thresholds of |theta|.",
    "feature_counts": "Features recruited by each recipe, counted above thresholds of |theta|.",
    "waterfall": "Theta of every recruited feature, strongest first, with its label.",
    "umap": "Cells on a UMAP of the unsteered ones, with the held-out cells steered by each recipe.",
    "recruitment": "What tells recruited features from those recruited by chance.",
    "lambda_path": "Theta of the features as lambda falls.",
    "widths": "The same experiment on dictionaries of other widths.",
    "pareto": "Distance in the latent space against distance in expression, as the objective's weight moves.",
    "transfer": "Recipes fitted on some cell types (rows), scored on others (columns).",
    "transfer_markers": "Share of the marker genes' gap that transferred recipes close.",
    "dictionaries": "How many features of each dictionary are annotated, and how concentrated they are.",
    "feature_graph": "Features that share genes, in their modules.",
    "training_curve": "The dictionary's loss and dead features as it was trained.",
    "features": "How often the dictionary's features fire.",
    "baselines": "Reconstruction by the dictionary, beside its baselines.",
    "seed_matches": "Share of features that other seeds of the training find too, beside controls.",
    "feature_stability": "In what share of the other seeds each feature exists.",
}


def caption_of(name: str) -> str:
    """Return the caption of a figure; its name in words where there is none."""
    return CAPTIONS.get(name, name.replace("_", " ").capitalize() + ".")
