"""What the recruited features mean, without the programme's own genes: with them the enrichment is circular."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ...evaluate.recruitment import recruited
from ...interpret.enrichment import enrich
from ...interpret.programs import gene_sets, participation_ratio
from ...pipeline.annotation import Inputs, inputs
from ...pipeline.feature_activity import activity
from ...pipeline.fit import Recipe
from ...pipeline.program import Phenotype


def feature_terms(asked: Phenotype, recipe: Recipe) -> pd.DataFrame:
    """Return a row a recruited feature, of largest |theta| first.

    Columns: feature, theta, genes (its first ones, `*` marks the programme's), n_genes, own_genes (of the programme), term and
    q (its best term when the programme's genes are left out of its set, of the library and of the background), circular_term
    and circular_q (with them). q is Benjamini and Hochberg's over the recruited features and all sets.
    """
    given = inputs(asked.experiment.context)
    _, where = activity(given.context, given.source, "sae", given.dictionary.sae, given.dictionary.artefact)
    limits = given.context.config.annotate
    on = recruited(recipe.theta)
    M = where.matrix()[on]
    sets = gene_sets(M, participation_ratio(M), smallest=limits.min_genes, largest=limits.max_genes)
    own = np.isin(np.arange(M.shape[1]), asked.program.genes)
    rows = []
    best = {name: best_terms(given, sets, left) for name, left in (("", ~own), ("circular_", np.ones_like(own)))}
    for i, feature in enumerate(on):
        members = sets.indices[sets.indptr[i] : sets.indptr[i + 1]]
        members = members[np.argsort(-M[i, members], kind="stable")]
        row = {
            "feature": int(feature),
            "theta": recipe.theta[feature],
            "genes": " ".join(given.source.genes[g] + "*" * bool(own[g]) for g in members[:8]),
            "n_genes": len(members),
            "own_genes": int(own[members].sum()),
        }
        for name, found in best.items():
            row |= {f"{name}term": found[0][i], f"{name}q": found[1][i]}
        rows.append(row)
    return pd.DataFrame(rows)


def best_terms(given: Inputs, sets: sp.csr_matrix, among: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return each set's term of smallest p and its q, (F,) each, on the background's genes that are in `among`, bool (G,)."""
    keep = among & given.expressed
    background = [gene for gene, there in zip(given.source.genes, keep, strict=True) if there]
    found = enrich(sp.csr_matrix(sets[:, np.flatnonzero(keep)]), given.sets.matrix(background))
    best = found.take(found.best(given.sets.information))
    terms, q = [""] * sets.shape[0], np.ones(sets.shape[0])
    for feature, term, value in zip(best.feature, best.term, best.q, strict=True):
        terms[feature], q[feature] = given.sets.terms[term], value
    return terms, q
