"""Cells in, cells out: embeddings, features, and cells before and after a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from ..config import SaeConfig
from ..errors import SteerError
from ..interpret.activity import cell_codes
from ..pipeline.activations import Activations
from ..pipeline.dictionary import check_dictionary
from ..pipeline.steered import steered
from ..sae.centred import for_genes
from .objects import SAE, Model, Recipe
from .settings import mark_test_cells, opened, require_adata, set_apart, told


@told
def hold_out(
    adata: AnnData,
    *,
    label: str | None = None,
    batch: str | None = None,
    share: float = 0.3,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Set test cells apart: the only cells that scores are of, and that no dictionary, annotation or recipe sees.

    `train_sae`, `fit` and `evaluate` do it by themselves where obs has no such column; they then take the test cells that the
    commands take with the same label and batch. A split of your own is a column of that name, True for test cells.

    Parameters
    ----------
    label, batch : columns of obs; each label, and each batch within it, gives its share to within one cell
    share : of the cells
    seed : of which they are

    Returns
    -------
    None, or with `copy` another AnnData. Writes obs["steer_test"], bool.

    Raises
    ------
    SteerError
        No such column, or a share outside [0, 1).
    """
    adata = _own(adata, copy)
    mark_test_cells(adata, label=label, batch=batch, share=share, seed=seed)
    return adata if copy else None


@told
def embed(
    adata: AnnData,
    model: Model,
    *,
    layer: int | None = None,
    counts: str | None = None,
    store: str | Path | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Write each cell's embedding: its mean residual stream after a block, over the genes that data and model share.

    It is the step of `steer extract`: the stream of every gene token is kept in the store (at most 20 GB), where
    `features`, `train_sae` and `fit` find it.

    Parameters
    ----------
    adata : cells with raw counts, in memory or backed
    layer : 0-based block, -1 the last; None: the model's steering layer
    counts : where the raw counts are: a layer of the AnnData, or "raw"; None is X
    store : folder of what is kept; None: a temporary one, shared by all calls and gone with the process

    Returns
    -------
    None, or with `copy` another AnnData. Writes obsm["X_steer"], float32 (N, D), and uns["steer"]: model, layer, genes (how
    many of the model's genes were matched), model_genes (how many it has).

    Raises
    ------
    SteerError
        No raw counts (the line says which matrix has them), too few genes match, no such block or layer.
    """
    adata = _own(adata, copy)
    with opened(adata, model.path, model.revision, layer=layer, counts=counts, store=store) as pipeline:
        found = pipeline.activations()
        adata.obsm["X_steer"] = found.means
        adata.uns["steer"] = _about(model, found)
    return adata if copy else None


@told
def features(
    adata: AnnData,
    model: Model,
    sae: SAE,
    *,
    layer: int | None = None,
    annotate: bool = False,
    label: str | None = None,
    counts: str | None = None,
    store: str | Path | None = None,
) -> AnnData:
    """Return the cells by their features, ready for scanpy's plots and rank_genes_groups.

    Parameters
    ----------
    adata : cells with raw counts, in memory or backed; it is left alone, but for obs["steer_test"] where `annotate` needs it
    layer : 0-based block; None: the one that the SAE was trained on, else the model's steering layer
    annotate : name the features as `steer annotate` does, by Gene Ontology terms, on cells that are no test cells
    label : column of obs with cell types, for the annotation
    counts, store : see `embed`

    Returns
    -------
    AnnData (N, F)
        X float32, mean |z| over a cell's gene tokens; layers["signed"] float32, mean z; obs as in `adata`; obsm["X_steer"];
        var: names "0" to "F-1", and the annotation with `annotate`, or where the SAE's run has one (label, genes, cell types,
        ...); uns["steer"]

    Raises
    ------
    SteerError
        The SAE is not of the model's width, or see `embed`.
    """
    if annotate:
        set_apart(adata, label=label)
    layer = sae.layer if layer is None else layer
    where: dict[str, Any] = {"layer": layer, "counts": counts, "store": store, "sae": SaeConfig(path=str(sae.path))}
    with opened(adata, model.path, model.revision, label=label, tested=annotate, **where) as pipeline:
        check_dictionary(pipeline.config)
        found = pipeline.activations()
        network = for_genes(sae.network, found.genes, str(sae.path))
        codes = cell_codes(network, found.tokens, np.arange(adata.n_obs))
        table = pipeline.annotation().features if annotate else sae.annotation
        about = _about(model, found)
    var = pd.DataFrame(index=[str(i) for i in range(sae.n_features)])
    if table is not None:
        var = table.set_index(var.index)
    made = AnnData(codes.size, obs=adata.obs.copy(), var=var, layers={"signed": codes.signed})
    made.obsm["X_steer"], made.uns["steer"] = found.means, about
    return made


@told
def steer(
    adata: AnnData, model: Model, sae: SAE, recipe: Recipe, *, counts: str | None = None, store: str | Path | None = None
) -> AnnData:
    """Return the cells as the model sees them, before and after a recipe.

    Every cell is steered: pass those that you mean, as in adata[adata.obs["cell_type"] == "CD4"].

    Parameters
    ----------
    adata : cells with raw counts, in memory or backed; it is left alone
    recipe : fitted on the features of `sae`
    counts, store : see `embed`

    Returns
    -------
    AnnData (N, G_valid)
        layers["before"], layers["after"]: float32, predicted log1p CP10K of the genes that data and model share; X is the
        latter; obsm["X_steer_before"], obsm["X_steer_after"] float32 (N, D) mean streams at the layer, and
        obsm["X_final_before"], obsm["X_final_after"] after the final LayerNorm; obs as in `adata`; uns["steer"].
        A model without an output head predicts nothing: then no X, no layers and no genes.

    Raises
    ------
    SteerError
        The recipe is of another dictionary, or see `embed`.
    """
    fits(recipe, sae)
    where: dict[str, Any] = {"layer": recipe.layer, "counts": counts, "store": store}
    groups: dict[str, Any] = {"sae": SaeConfig(path=str(sae.path)), "objective": recipe.settings, "contrast": recipe.contrast}
    with opened(adata, model.path, model.revision, **where, **groups) as pipeline:
        check_dictionary(pipeline.config)
        before, after, genes = steered(pipeline, sae.network, recipe.theta)
    made = AnnData(obs=adata.obs.copy(), var=pd.DataFrame(index=genes))
    if genes:
        made.layers["before"], made.layers["after"], made.X = before.expression, after.expression, after.expression
    for name, state in (("before", before), ("after", after)):
        made.obsm[f"X_steer_{name}"], made.obsm[f"X_final_{name}"] = state.layer, state.final
    made.uns["steer"] = {"model": model.path, "layer": recipe.layer, "objective": recipe.objective, "genes": len(genes)}
    return made


def fits(recipe: Recipe, sae: SAE) -> None:
    """Refuse a recipe of another dictionary: its features are others."""
    if recipe.dictionary not in (None, sae.digest) or len(recipe.theta) != sae.n_features:
        raise SteerError(
            f"the recipe is of another dictionary ({len(recipe.theta)} features, {recipe.dictionary}) than the SAE given "
            f"({sae.n_features}, {sae.digest}); fit one on this SAE: steerpipe.fit."
        )


def _about(model: Model, found: Activations) -> dict[str, Any]:
    return {"model": model.path, "layer": found.layer, "genes": len(found.genes), "model_genes": len(model.genes)}


def _own(adata: AnnData, copy: bool) -> AnnData:
    """Return the AnnData to write to: the one given, or a copy, in memory where it is backed."""
    require_adata(adata)
    return adata if not copy else adata.to_memory() if adata.isbacked else adata.copy()
