"""The SAE beside its baselines: reconstruction on cells it never saw, and fidelity when spliced into the model."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import as_dict
from ..data.split import require_test
from ..sae.baselines import Baselines, FeatureDictionary
from ..sae.fidelity import fidelity, splice_losses
from ..sae.metrics import nearest_cosine, score_sae
from .activations import Activations, layer_index, load_cells, load_steered_model
from .artefact import Artefact, built
from .baseline_dictionaries import baselines
from .context import Context
from .dictionary import Dictionary, dictionary, member_configs

log = logging.getLogger(__name__)
VERSION = 2
SAE = "SAE"


@dataclass(frozen=True)
class Comparison:
    """Scores of several dictionaries on held-out cells.

    Attributes
    ----------
    table : one row a dictionary: n_features, fvu_train, fvu, mse_uncentred, l0, dead, rare, fidelity_loss,
        fidelity_expression (NaN where fidelity is left out, or the model has no expression head)
    types : the SAE's rows by cell type, where the dataset has labels: n, fvu, fidelity_loss, fidelity_expression
    features : one row an SAE feature: density on held-out cells, cosine of the nearest other decoder row
    """

    artefact: Artefact
    table: pd.DataFrame
    types: pd.DataFrame
    features: pd.DataFrame


def compare(context: Context, source: Activations, found: Dictionary) -> Comparison:
    """Return the configured SAE's comparison on the test cells, scoring what is missing; a consensus stands beside its members.

    Raises
    ------
    SteerError
        There are no test cells.
    """
    require_test(len(source.test))
    config = context.config
    parents = [found.artefact]
    members = {
        f"member, seed {one.seed}": dictionary(replace(context, config=replace(config, sae=one)), source)
        for one in member_configs(config.sae)
    }
    parents += [member.artefact for member in members.values()]
    fitted = None
    if config.score.baselines:
        artefact, fitted = baselines(context, source, found)
        parents.append(artefact)
    settings = {**as_dict(config.score), "seed": config.seed, "layer": layer_index(config), "label": config.dataset.label}

    def build(folder: Path) -> None:
        every = rivals(found, fitted) | {name: member.sae for name, member in members.items()}
        _build(context, source, found, every, folder)

    artefact = built(context, "score", build, version=VERSION, reads=settings, parents=parents)
    read = (pd.read_csv(artefact.path / f"{name}.csv") for name in ("dictionaries", "types", "features"))
    return Comparison(artefact, *read)


def rivals(found: Dictionary, fitted: Baselines | None) -> dict[str, FeatureDictionary]:
    """Return the SAE and every baseline at its L0, by the names that tables use."""
    k = found.sae.k
    every: dict[str, FeatureDictionary] = {SAE: found.sae}
    if fitted is not None:
        every |= {"neurons": fitted.neurons.sparse(k), "PCA": fitted.pca.sparse(k), f"first {k} PCs": fitted.pca.first(k)}
        every |= {"ICA": fitted.ica.sparse(k), "random SAE": fitted.random}
    return every


def _build(context: Context, source: Activations, found: Dictionary, every: dict[str, FeatureDictionary], folder: Path) -> None:
    config, tokens, held, seen = context.config, source.tokens, source.test, source.fit_sample
    rows, density = [], np.zeros(0)
    for name, one in every.items():
        score = score_sae(one, tokens, held)
        density = score.density if name == SAE else density
        row = {
            "dictionary": name,
            "n_features": one.n_features,
            "fvu_train": score_sae(one, tokens, seen).fvu,
        }
        rows.append(row | {key: getattr(score, key) for key in ("fvu", "mse_uncentred", "l0", "dead", "rare")})
    table = pd.DataFrame(rows)
    labels = None if config.dataset.label is None else source.obs[config.dataset.label].to_numpy()
    types = pd.DataFrame(columns=["type", "n", "fvu"])
    if labels is not None:
        of_type = {str(name): held[labels[held] == name] for name in np.unique(labels[held])}
        types = pd.DataFrame(
            [{"type": name, "n": len(cells), "fvu": score_sae(found.sae, tokens, cells).fvu} for name, cells in of_type.items()]
        )
    losses = _losses(context, source, every)
    if losses is not None:
        table = table.merge(fidelity(losses), how="left")
        losses.to_parquet(folder / "losses.parquet", index=False)
        if labels is not None:
            by_type = [
                fidelity(group).query("dictionary == @SAE").assign(type=str(name))
                for name, group in losses.groupby(labels[losses["cell"]])
            ]
            types = types.merge(pd.concat(by_type).drop(columns="dictionary"), how="left", on="type")
    for column in ("fidelity_loss", "fidelity_expression"):
        for frame in (table, types):
            frame[column] = frame.get(column, np.nan)
    table.to_csv(folder / "dictionaries.csv", index=False)
    types.to_csv(folder / "types.csv", index=False)
    nearest = nearest_cosine(found.sae.W_dec)
    features = {"feature": np.arange(len(nearest)), "density": density, "nearest_cosine": nearest}
    pd.DataFrame(features).to_csv(folder / "features.csv", index=False)


def _losses(context: Context, source: Activations, every: dict[str, FeatureDictionary]) -> pd.DataFrame | None:
    """Return `splice_losses` of some test cells, or None where fidelity cannot be had or is not wanted."""
    config = context.config
    if config.score.cells == 0 or config.model.tokens != "all":
        return None
    model = load_steered_model(config)
    if model.predicts is None:
        log.info("spliced-in fidelity is of what a model predicts of masked genes: %s has no head for it", config.model.path)
        return None
    device = next(model.parameters()).device
    cells = load_cells(config, model.genes)
    some = np.sort(np.random.default_rng([config.seed, 5]).permutation(source.test)[: config.score.cells])
    mean = np.concatenate(source.tokens.cells(source.fit_sample[:64])).mean(0)
    moved = {name: one.to(device) for name, one in every.items()}
    losses = splice_losses(
        model,
        cells[some],
        cells.valid,
        layer_index(config),
        moved,
        torch.from_numpy(mean),
        masked_share=config.score.masked_share,
        seed=config.seed,
        batch_size=config.model.batch_size,
    )
    losses["cell"] = some[losses["cell"]]
    return losses
