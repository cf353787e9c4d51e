"""From a phenotype to genes: which few features raise a gene programme, what they mean, and what could be perturbed for it."""

from __future__ import annotations

CAPTIONS = {
    "recipe": "a: rise of the programme's score in held-out cells, on the genes that the fit saw and on those that it did not, "
    "beside controls and the 95 % range of random programmes; p is of the held-out genes. b: the recipe's features, and their "
    "terms without the programme's own genes. c: perturbations that together explain the recipe's shift, by how many "
    "half-samples have them.",
    "programmes": "Each programme's rise on held-out genes and cells, a dot a starting cell type, over the 95 % range of "
    "random programmes' own rises. Filled: beyond its nulls, before correction over the programmes.",
}
"""What is seen in each figure."""
