"""Recipes of one tissue on the cells of another: a recipe is decoder directions, and needs its own dictionary alone."""

from __future__ import annotations

import logging
from dataclasses import replace

import pandas as pd

from ...errors import SteerError
from ...evaluate.population import permutation_p
from ...pipeline.checkpoint import require_head
from ...pipeline.context import Context
from ...pipeline.experiment import Experiment, prepare
from ...pipeline.fit import fit
from ...pipeline.null import null_recipes
from ...pipeline.scoring import scorer
from ...progress import track
from .compute import Dictionaries
from .tissues import Tissue

log = logging.getLogger(__name__)
SCORES = ("edistance", "gap", "probe", "c2st", "spread")


def carried(context: Context, tissues: list[Tissue], found: Dictionaries) -> tuple[pd.DataFrame, list[str]]:
    """Return the headline scores of every tissue's latent recipe on the held-out cells of every tissue, and what is left out.

    Columns of, on, space, the SCORES, and gap_p at the layer: of the same recipe fitted to that tissue's cells dealt anew.
    """
    config = context.config
    if config.atlas.split is not None:
        return pd.DataFrame(), ["recipes are not carried between parts of one dataset: its contrast is one."]
    seed, objective = config.atlas.seeds[0], replace(config.objective, name="latent")
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one; or atlas.carry=false")
    there, said = [], []
    for tissue in tissues:
        try:
            _on(tissue, found[tissue.name][seed].artefact.path.as_posix())
            there.append(tissue)
        except SteerError as error:
            said.append(f"no recipe of {tissue.name}: {str(error).split('. ')[0]}.")
    rows = []
    for one in there:
        path = found[one.name][seed].artefact.path.as_posix()
        own = _on(one, path)
        recipe = fit(own, objective)
        _, null = null_recipes(own, objective)
        for other in track(there, f"recipe of {one.name}", len(there)):
            experiment = own if other is one else _on(other, path)
            how = scorer(experiment)
            values = how.values(how.recipe(recipe.theta, objective.mode) if recipe.theta.any() else how.base)
            p = permutation_p(values["layer", "gap"], how.layer_gaps(null, objective.mode), "higher").p
            for space in how.populations:
                row = {"of": one.name, "on": other.name, "space": space, **{name: values[space, name] for name in SCORES}}
                rows.append(row | ({"gap_p": p} if space == "layer" else {}))
    return pd.DataFrame(rows), said


def _on(tissue: Tissue, path: str) -> Experiment:
    """The contrast of a tissue's cells on a dictionary that may be another tissue's."""
    config = tissue.context.config
    return prepare(replace(tissue.context, config=replace(config, sae=replace(config.sae, path=path))), scored=True)
