"""What a notebook holds: a model, a dictionary, a recipe; loaded from files, from the hub, or from the runs of commands."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import EMBEDDED, ContrastConfig, LambdaConfig, ObjectiveConfig
from ..digest import array_digest
from ..errors import SteerError
from ..evaluate.recruitment import recruited
from ..models import checkpoints
from ..models.base import CellModel, Sizes
from ..past import Past, resolve_run
from ..sae.io import import_sae, sae_files, save_sae
from ..sae.model import TopKSAE
from .settings import MODELS, told

log = logging.getLogger(__name__)
RECIPE = "recipe.json"


@dataclass(frozen=True, eq=False)
class Model:
    """A single-cell foundation model.

    Attributes
    ----------
    path, revision : what it was loaded by; a hub id's revision
    arch : its sizes: hidden_size, num_hidden_layers, ...
    genes : the gene symbols of its positions
    has_head : whether it predicts expression
    licence : of its weights
    """

    path: str
    revision: str | None
    arch: Sizes = field(repr=False)
    genes: tuple[str, ...] = field(repr=False)
    has_head: bool
    licence: str

    @cached_property
    def network(self) -> CellModel:
        """The torch module, frozen, float32, on the CPU; read when it is asked for. Steps load their own onto their device."""
        return checkpoints.load_model(self.path, self.revision)


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder.

    Attributes
    ----------
    network : the torch module: W_enc (D, F), W_dec (F, D), encode, decode
    path : the file or folder that it is read from
    layer : 0-based block that it was trained on; None where its file does not say
    scores : sae_train/... and sae_held/...: FVU, L0, share dead, as `steer train-sae` reports them; empty for a file
    annotation : one row a feature, as `steer annotate` writes it, of a run that has one
    """

    network: TopKSAE = field(repr=False)
    path: Path
    layer: int | None
    scores: dict[str, float] = field(repr=False, default_factory=dict)
    annotation: pd.DataFrame | None = field(repr=False, default=None)

    @property
    def n_features(self) -> int:
        """F."""
        return self.network.n_features

    @cached_property
    def digest(self) -> str:
        """What tells dictionaries apart: of the decoder's rows, which every format keeps."""
        rows: np.ndarray = self.network.W_dec.detach().cpu().numpy()
        return array_digest(rows.astype(np.float32))

    def save(self, folder: str | Path) -> Path:
        """Write the SAE in SAELens' layout, with its layer; `load_sae` and `steer ... sae=file sae.path=` read it."""
        save_sae(self.network, Path(folder), {"steerpipe": {"layer": self.layer}})
        return Path(folder)


@dataclass(frozen=True, eq=False)
class Recipe:
    """A fitted steering vector.

    Attributes
    ----------
    objective : its label: latent, latent_final, expression or mixed, with its form where that is not the default
    theta : float64 (F,), exact zeros; alpha - 1 with mode multiply, else what is added or set (see steering.intervene)
    features : the recruited features, largest |theta| first: feature, theta, alpha (with multiply), mean_abs_code in the
        fit's source cells, ...
    path : one row a lambda: lam, ratio, number of features at each threshold, loss, certificate
    info : lam, lam_max, ratio, loss, loss_at_zero, counts and certificate, flat numbers
    settings, contrast, lam : what it was fitted with
    label, batch : columns of obs
    layer : 0-based block that it steers
    dictionary : digest of the SAE whose features it weighs; None where that is not known any more
    seed : of what was drawn
    refit : float64 (F,), unpenalised on the support of theta, where refit=True asked for it
    """

    objective: str
    theta: np.ndarray = field(repr=False)
    features: pd.DataFrame = field(repr=False)
    path: pd.DataFrame = field(repr=False)
    info: dict[str, float] = field(repr=False)
    settings: ObjectiveConfig = field(repr=False)
    contrast: ContrastConfig
    lam: LambdaConfig
    label: str
    layer: int
    batch: str | None = None
    dictionary: str | None = None
    seed: int = 0
    refit: np.ndarray | None = field(repr=False, default=None)

    def save(self, folder: str | Path) -> Path:
        """Write recipe.json, theta.npy, features.csv, path.csv and, where there is one, refit.npy; `load_recipe` reads them."""
        where = Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        np.save(where / "theta.npy", self.theta)
        if self.refit is not None:
            np.save(where / "refit.npy", self.refit)
        self.features.to_csv(where / "features.csv", index=False)
        self.path.to_csv(where / "path.csv", index=False)
        groups = {name: asdict(getattr(self, name)) for name in ("settings", "contrast", "lam")}
        plain = {name: getattr(self, name) for name in ("objective", "info", "label", "layer", "batch", "dictionary", "seed")}
        (where / RECIPE).write_text(json.dumps(groups | plain, indent=1))
        return where


@told
def load_model(path: str | Path = "mini", revision: str | None = None) -> Model:
    """Return a model; its licence is said where it is not one of ours.

    Parameters
    ----------
    path : `mini`, a folder with config.json and weights, or a hub id (owner/name)
    revision : commit, tag or branch of a hub id; None: the one that steerpipe knows, or main

    Raises
    ------
    SteerError
        No such folder or model, or its files are of no kind of model that steer knows.
    """
    name = str(path)
    if revision is None and name in MODELS:
        revision = MODELS[name].revision
    folder = checkpoints.model_folder(name, revision)
    arch, licence = checkpoints.read_config(folder), str(checkpoints.provenance(name, revision)["licence"])
    if name not in EMBEDDED:
        log.warning("licence of %s: %s", name, licence)
    genes = checkpoints.model_genes(name, revision)
    return Model(name, revision, arch, genes, checkpoints.has_head(folder), licence)


@told
def load_sae(name: str | Path = "last", *, outputs: str | Path = "outputs") -> SAE:
    """Return a dictionary from a file, or from a run of `steer`.

    Parameters
    ----------
    name : a published topk_sae.pt, a folder with one or in SAELens' layout; or a run: `last`, its folder, or the beginning of
        its name, as `steer show` takes it. A run that annotated features brings their annotation
    outputs : the folder of run folders

    Raises
    ------
    SteerError
        There is no such file or run, or the run has no dictionary.
    """
    path = Path(name).expanduser()
    if path.suffix == ".pt" or (path.exists() and all(file.is_file() for file in sae_files(path))):
        return sae_of(path)
    run = resolve_run(str(name), Path(outputs))
    wanted = run.manifest["config"]["sae"]
    found = [
        (folder, kept)
        for folder, kept in artefacts(run, "train-sae")
        if all(kept[setting] == wanted[setting] for setting in kept.keys() & wanted.keys())
    ]
    if not found:
        raise SteerError(f"the run {run.name} has no dictionary; steer train-sae makes one.")
    tables = [folder / "features.parquet" for folder, _ in artefacts(run, "annotate")]
    return sae_of(found[-1][0], found[-1][1]["layer"], pd.read_parquet(tables[-1]) if tables else None)


@told
def load_recipe(name: str | Path = "last", *, objective: str | None = None, outputs: str | Path = "outputs") -> Recipe:
    """Return a recipe that `Recipe.save` wrote, or that of a run of `steer`.

    Parameters
    ----------
    name : a folder that Recipe.save wrote; or a run: `last`, its folder, or the beginning of its name, as `steer show` takes it
    objective : which one, of a run that fitted several
    outputs : the folder of run folders

    Raises
    ------
    SteerError
        There is no such folder or run, the run has no recipe, or it has several and none is named.
    """
    path = Path(name).expanduser()
    if (path / RECIPE).is_file():
        return _saved(path)
    run = resolve_run(str(name), Path(outputs))
    fits = {ObjectiveConfig(**kept["objective"]).label: (folder, kept) for folder, kept in artefacts(run, "fit")}
    if not fits:
        raise SteerError(f"the run {run.name} has no recipe; steer fit makes one.")
    if (objective is None and len(fits) > 1) or (objective is not None and objective not in fits):
        raise SteerError(f"the run {run.name} has recipes of these objectives: {', '.join(fits)}; name one: objective='...'.")
    folder, kept = fits[objective or next(iter(fits))]
    config = run.manifest["config"]
    dataset, contrast = config["dataset"], dict(config["contrast"])
    for side in ("source", "target"):
        if isinstance(contrast[side], str):  # groups are the config's own
            contrast[side] = dataset["groups"].get(contrast[side], contrast[side])
    label = contrast["column"] or dataset["label"]
    dictionary = load_sae(run.path, outputs=outputs)
    assert dictionary.layer is not None
    settings = ObjectiveConfig(**(config["objective"] | kept["objective"]))
    theta = np.load(folder / "theta.npy")
    table = run.path / "recipe.csv"
    return Recipe(
        settings.label, theta, pd.read_csv(table) if table.is_file() and len(fits) == 1 else plain_table(theta, settings),
        pd.read_csv(folder / "path.csv"), json.loads((folder / "fit.json").read_text()), settings,
        ContrastConfig(**contrast), LambdaConfig(**config["lambda"]), label, dictionary.layer, dataset["batch"],
        dictionary.digest, config["seed"], _array(folder / "refit.npy"),
    )  # fmt: skip


def sae_of(path: Path, layer: int | None = None, annotation: pd.DataFrame | None = None) -> SAE:
    """Return the SAE of a file or folder, with the scores that a training left beside it."""
    network, scores, about = import_sae(path), path / "scores.json", path / "cfg.json"
    if layer is None and about.is_file():
        known = (json.loads(about.read_text()).get("metadata") or {}).get("steerpipe") or {}
        layer = known.get("layer")
    return SAE(network, path, layer, json.loads(scores.read_text()) if scores.is_file() else {}, annotation)


def artefacts(run: Past, step: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, settings in its key) of a run's artefacts of one step, in the order in which they were made.

    Raises
    ------
    SteerError
        One is not in the store any more.
    """
    found = []
    for one in run.manifest.get("artefacts", []):
        if one["stage"] != step:
            continue
        folder = Path(run.manifest.get("folder", "."), one["path"])
        record = folder / "artefact.json"
        if not record.is_file():
            raise SteerError(f"{folder} of the run {run.name} is gone; build it again: steer rerun {run.name}")
        found.append((folder, json.loads(record.read_text())["config"]))
    return found


def plain_table(theta: np.ndarray, settings: ObjectiveConfig) -> pd.DataFrame:
    """Return the recruited features, largest |theta| first, where nothing else is known of them."""
    on = recruited(theta)
    table = pd.DataFrame({"feature": on, "theta": theta[on]})
    return table.assign(alpha=1 + theta[on]) if settings.mode == "multiply" else table


def _saved(folder: Path) -> Recipe:
    about = json.loads((folder / RECIPE).read_text())
    kinds = {"settings": ObjectiveConfig, "contrast": ContrastConfig, "lam": LambdaConfig}
    groups: dict[str, Any] = {name: kind(**about.pop(name)) for name, kind in kinds.items()}
    arrays = {"theta": np.load(folder / "theta.npy"), "refit": _array(folder / "refit.npy")}
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in ("features", "path")}
    return Recipe(**about, **groups, **arrays, **tables)


def _array(file: Path) -> np.ndarray | None:
    return np.load(file) if file.is_file() else None
