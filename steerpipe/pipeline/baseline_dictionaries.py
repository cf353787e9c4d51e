"""The baseline dictionaries of a layer, keyed and shared by every stage that compares with them."""

from __future__ import annotations

import logging
from pathlib import Path

from ..sae.baselines import Baselines, fit_baselines
from ..sae.centred import CentredTokens
from .activations import Activations, layer_index
from .artefact import Artefact, built
from .context import Context
from .dictionary import Dictionary

log = logging.getLogger(__name__)
VERSION = 2


def baselines(context: Context, source: Activations, beside: Dictionary) -> tuple[Artefact, Baselines]:
    """Return the baselines of an SAE's size, fitted on its training cells; fitting them when they are missing.

    Beside a gene-centred SAE they are fitted on tokens less its gene means, and have these means themselves.
    """
    config, sae = context.config.sae, beside.sae
    size = {"n_features": sae.n_features, "k": sae.k, "seed": config.seed}

    def build(folder: Path) -> None:
        tokens = CentredTokens(source.tokens, sae.b_pre) if sae.gene_centred else source.tokens
        found = fit_baselines(tokens, source.fit, sae.n_features, sae.k, seed=config.seed)
        if not found.ica_converged:
            log.warning("FastICA did not converge in %d steps; its last step is what is compared", found.ica_steps)
        if sae.gene_centred:
            found = found.centre_genes(sae.b_pre.cpu(), sae.genes)
        found.save(folder)

    parents = [source.artefact, beside.artefact] if sae.gene_centred else [source.artefact]
    settings = {**size, "layer": layer_index(context.config), "test": source.split_key}
    artefact = built(context, "baselines", build, version=VERSION, reads=settings, parents=parents)
    return artefact, Baselines.load(artefact.path)
