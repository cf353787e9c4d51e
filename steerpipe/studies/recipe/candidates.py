"""The genes that could be perturbed for a programme."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ...data.genes import alias_map
from ...data.regulons import load_regulons
from ...errors import SteerError, unknown
from ...pipeline.program import Phenotype
from .plan import PROGRAM_GENES

SURFACE = re.compile(
    r"(CD\d+[A-Z]*\d*|ITG[AB].*|IL\d+R.*|TNFRSF.*|CCR\d+|CXCR\d+|CX3CR1|KL[R].*|TLR\d+|FC[GE]R.*|LILR.*|HLA-.*|IFN[AGL]R\d|CSF\d+R.*"
    r"|TGFBR\d|NCR\d|SIGLEC.*|CLEC.*|SEL[LPE]|SELPLG|S1PR\d|GPR\d+|PTPRC|SLAMF\d|ICAM\d|LAG3|TIGIT|PDCD1|CTLA4|ICOS|TYROBP)"
)
"""Symbols of CD molecules and of families of receptors and adhesion molecules: what an antibody could reach, by name alone."""


def candidate_genes(asked: Phenotype) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates and those of the programme's genes that are perturbed to be reported apart, int64 columns each.

    Of a kind the recipe.max_candidates most expressed in the source cells are taken, whatever the programme is.

    Raises
    ------
    SteerError
        An unknown gene in a list, or a kind without any gene that the data has.
    """
    genes, config = asked.experiment.genes, asked.experiment.context.config
    wanted = config.recipe.candidates
    if isinstance(wanted, str):
        order = np.argsort(-asked.expression, kind="stable")
        there = set(_of_kind(asked, wanted))
        chosen = [int(i) for i in order if int(i) in there][: config.recipe.max_candidates]
    else:
        column = {gene: i for i, gene in enumerate(genes)}
        for gene in wanted:
            if gene not in column:
                raise unknown("gene in recipe.candidates", gene, genes)
        chosen = [column[gene] for gene in dict.fromkeys(wanted)]
    if not set(chosen) - set(asked.program.genes.tolist()):
        raise SteerError(
            f"recipe.candidates={wanted}: the data has no such gene beside the programme's; take expressed, or a list."
        )
    own = asked.program.genes
    return np.sort(chosen), np.sort(own[np.argsort(-asked.expression[own], kind="stable")][:PROGRAM_GENES])


def _of_kind(asked: Phenotype, kind: str) -> Iterable[int]:
    genes = asked.experiment.genes
    if kind == "surface":
        return [i for i, gene in enumerate(genes) if SURFACE.fullmatch(gene)]
    if kind == "tf":
        alias = alias_map()
        network = load_regulons(asked.experiment.context.config.regulation.regulons)
        tfs = set(network["source"]) | {alias.get(tf, tf) for tf in network["source"]}
        return [i for i, gene in enumerate(genes) if gene in tfs]
    return np.flatnonzero(asked.expression > 0).tolist()
