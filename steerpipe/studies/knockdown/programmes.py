"""Whether a recipe's features hold the programmes of the gene that it is of: terms and regulons, by their genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.genesets import load_library
from ...data.regulons import load_regulons
from ...evaluate.knockdown import programme_auroc
from ...pipeline.experiment import Experiment
from .compute import Measured

SMALLEST, LARGEST = 10, 500
"""Genes of a programme in its library."""
LEAST = 3
"""Genes of a programme that the data has."""


@dataclass(frozen=True)
class Programmes:
    """Programmes that hold a perturbed gene.

    Attributes
    ----------
    names : T programmes
    columns : the genes of each, columns of the valid genes
    members : the symbols of each, all of its library's
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    members: tuple[frozenset[str], ...]

    def own(self, genes: Sequence[str]) -> np.ndarray:
        """Return bool (T,): which programmes hold one of some genes."""
        return np.array([bool(members & set(genes)) for members in self.members])


def programmes(experiment: Experiment, perturbed: Sequence[str]) -> Programmes:
    """Return the terms of annotate.library, and the regulons, that hold a perturbed gene."""
    config = experiment.context.config
    library = load_library(config.annotate.library)
    every = {term: genes for term, genes in zip(library.terms, library.genes, strict=True) if SMALLEST <= len(genes) <= LARGEST}
    if config.knockdown.regulons is not None:
        network = load_regulons(config.knockdown.regulons, "knockdown.regulons")
        every |= {f"regulon of {tf}": frozenset([str(tf), *some["target"]]) for tf, some in network.groupby("source")}
    column = {gene: i for i, gene in enumerate(experiment.genes)}
    found: list[tuple[str, np.ndarray, frozenset[str]]] = []
    for name, genes in every.items():
        there = np.array(sorted(column[gene] for gene in genes if gene in column), np.int64)
        if genes & set(perturbed) and len(there) >= LEAST:
            found.append((name, there, genes))
    names, columns, members = zip(*found, strict=True) if found else ((), (), ())
    return Programmes(names, columns, members)


def gene_weights(experiment: Experiment, measured: Measured) -> np.ndarray:
    """Return a recipe's weight on each valid gene, float64 (G,).

    It is the sum of |theta| mean |code| over the features whose gene set has the gene. Codes are of the fit's control cells;
    the perturbed genes themselves have none.
    """
    features, column = experiment.annotation.features, {gene: i for i, gene in enumerate(experiment.genes)}
    activity = experiment.activity[measured.target.sides.source].mean(0)
    weights = np.zeros(len(column))
    sets = features.set_index("feature")["genes"]
    for feature in np.flatnonzero(measured.theta):
        genes = [column[gene] for gene in sets.get(feature, "").split(", ") if gene in column]
        weights[genes] += abs(measured.theta[feature]) * activity[feature]
    weights[[column[gene] for gene in measured.target.genes if gene in column]] = 0
    return weights


def known(experiment: Experiment, some: Sequence[Measured], least: int) -> dict[str, dict[str, float]]:
    """Return {recipe: {perturbation: AUROC of that perturbation's programmes under the recipe}}.

    Perturbations with fewer than `least` programmes, or whose recipe is empty, are left out. What is ranked leaves both
    perturbations' genes out of the programmes.
    """
    found = programmes(experiment, [gene for one in some for gene in one.target.genes])
    own = {one.target.name: found.own(one.target.genes) for one in some}
    there = [one for one in some if own[one.target.name].sum() >= least and not own[one.target.name].all() and one.theta.any()]
    weights = {one.target.name: gene_weights(experiment, one) for one in there}
    there = [one for one in there if weights[one.target.name].any()]
    hit = {one.target.name: np.flatnonzero(np.isin(experiment.genes, one.target.genes)) for one in there}
    table: dict[str, dict[str, float]] = {}
    for one in there:
        table[one.target.name] = {}
        for other in there:
            out = np.concatenate([hit[one.target.name], hit[other.target.name]])
            columns = [some[~np.isin(some, out)] for some in found.columns]
            auroc = programme_auroc(weights[one.target.name], columns, own[other.target.name])
            table[one.target.name][other.target.name] = auroc
    return table
