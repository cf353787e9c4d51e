"""Where the features of a dictionary fire: streamed once from the stored tokens, and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..device import pick_device
from ..interpret.activity import Activity, feature_activity
from ..interpret.programs import background, gene_expression
from ..models.checkpoints import model_genes
from ..sae.baselines import FeatureDictionary
from ..sae.model import TopKSAE
from .activations import Activations, layer_index, load_cells
from .artefact import Artefact, built
from .context import Context

VERSION = 2
ALL = "all cells"


def activity(
    context: Context, source: Activations, name: str, features: FeatureDictionary, made: Artefact
) -> tuple[Artefact, Activity]:
    """Return the activity of a dictionary's features over the cells that fits may see, streaming the tokens when it is missing.

    Parameters
    ----------
    name : of the dictionary within `made`, the artefact that holds it
    """
    config = context.config
    label, seed = config.dataset.label, config.annotate.seed

    def build(folder: Path) -> None:
        types = source.obs[label].astype(str).iloc[source.fit].tolist() if label is not None else [ALL] * len(source.fit)
        moved = features.to(pick_device(config.device)) if isinstance(features, TopKSAE) else features
        cells = load_cells(config, model_genes(config.model.path, config.model.revision))
        feature_activity(moved, source.tokens, types, cells, cells.valid, cells=source.fit, seed=seed).save(folder)
        if isinstance(features, TopKSAE):
            features.cpu()

    settings = {"dictionary": name, "layer": layer_index(config), "label": label, "seed": seed, "test": source.split_key}
    artefact = built(context, "activity", build, version=VERSION, reads=settings, parents=[source.artefact, made])
    return artefact, Activity.load(artefact.path)


def expressed_genes(context: Context, source: Activations) -> tuple[Artefact, pd.DataFrame]:
    """Return one row a valid gene, over the cells that fits may see.

    Columns: gene, mean (count), share (of cells that have it), expressed (in the background).
    """
    config = context.config

    def build(folder: Path) -> None:
        cells = load_cells(config, model_genes(config.model.path, config.model.revision))
        mean, share = gene_expression(cells, cells.valid, source.fit)
        frame = pd.DataFrame({"gene": source.genes, "mean": mean, "share": share, "expressed": background(mean, share)})
        frame.to_csv(folder / "expression.csv", index=False)

    settings = {"test": source.split_key}
    artefact = built(context, "gene-expression", build, version=VERSION, reads=settings, parents=[source.artefact])
    frame = pd.read_csv(artefact.path / "expression.csv", keep_default_na=False)
    return artefact, frame.astype({"expressed": bool, "mean": np.float64})
