"""A dictionary on the stored activations, trained or imported, scored on the test cells, which it never saw."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..activations.tokens import TokenSource
from ..config import Config, SaeConfig, as_dict
from ..device import pick_device
from ..digest import file_digest
from ..errors import SteerError
from ..models.checkpoints import model_folder, read_config
from ..sae.centred import CentredTokens, deviation_sae, for_genes, gene_means
from ..sae.consensus import merged, pool
from ..sae.io import import_sae, load_sae, sae_files, save_sae
from ..sae.metrics import score_sae
from ..sae.model import TopKSAE
from ..sae.train import train_sae
from .activations import Activations, layer_index
from .artefact import Artefact, built, kept
from .context import Context

log = logging.getLogger(__name__)
VERSION = 4


@dataclass(frozen=True)
class Dictionary:
    """An SAE and its scores (flat, `sae_train/...` and, where there are test cells, `sae_held/...`)."""

    artefact: Artefact
    sae: TopKSAE
    scores: dict[str, float]


def check_dictionary(config: Config) -> None:
    """Refuse, before anything is computed, an SAE that cannot be trained on the model's stream or is not of its width."""
    width = read_config(model_folder(config.model.path, config.model.revision)).hidden_size
    if config.sae.path is not None:
        found = import_sae(Path(config.sae.path).expanduser()).W_dec.shape[1]
        if found != width:
            raise SteerError(f"sae.path={config.sae.path} is of width {found}, but {config.model.path} has width {width}.")
    elif config.sae.k > config.sae.expansion * width:
        n_features = config.sae.expansion * width
        raise SteerError(f"sae.k={config.sae.k} is more than the {n_features} features of expansion {config.sae.expansion}.")


def member_configs(config: SaeConfig) -> list[SaeConfig]:
    """Return the settings of a consensus's members; none for one training. Two consensuses share no member."""
    if config.path is not None:
        return []
    first = config.seed * config.members
    default = SaeConfig()
    plain = replace(config, members=0, support=default.support, tune=default.tune, tune_lr=default.tune_lr)
    return [replace(plain, seed=first + i) for i in range(config.members)]


def gene_centred(config: Config) -> bool:
    """Return whether the configured SAE, trained or imported, is gene-centred."""
    path = config.sae.path
    return config.sae.centre == "gene" if path is None else import_sae(Path(path).expanduser()).gene_centred


def dictionary(context: Context, source: Activations) -> Dictionary:
    """Return the configured SAE on the given activations, training or importing it when it is missing."""
    config = context.config.sae
    settings = _training(config)
    inputs: list[str] = []
    members = [dictionary(replace(context, config=replace(context.config, sae=one)), source) for one in member_configs(config)]
    if config.path is not None:
        files = sae_files(Path(config.path).expanduser())
        settings = {}
        inputs = [file_digest(file) for file in files]
    settings |= {"layer": layer_index(context.config), "test": source.split_key}  # one extraction may hold several layers

    def build(folder: Path) -> None:
        if config.path is None:
            sae = _train(context.config, source, [one.sae for one in members], folder)
            origin = {"steerpipe": {"path": None, **_training(config)}}
        else:
            sae = for_genes(import_sae(Path(config.path).expanduser()), source.genes, config.path)
            origin = {"imported": {"path": config.path, "digest": inputs}}
            log.info("imported %s; held-out cells are only held out if it was not trained on this dataset", config.path)
        save_sae(sae, folder, {**origin, "activations": source.artefact.key})
        sae = load_sae(folder)  # what is scored is what later runs will read
        scores = {"sae_train": score_sae(sae, source.tokens, source.fit_sample)}
        if len(source.test):
            scores["sae_held"] = score_sae(sae, source.tokens, source.test)
        flat = {name: value for prefix, score in scores.items() for name, value in score.flat(prefix).items()}
        (folder / "scores.json").write_text(json.dumps(flat, indent=1))
        density = {f"density_{name.removeprefix('sae_')}": score.density for name, score in scores.items()}
        pd.DataFrame({"feature": np.arange(sae.n_features), **density}).to_csv(folder / "features.csv", index=False)

    parents = [source.artefact, *(one.artefact for one in members)]
    artefact = built(context, "train-sae", build, version=VERSION, reads=settings, parents=parents, inputs=inputs)
    return Dictionary(artefact, load_sae(artefact.path), json.loads((artefact.path / "scores.json").read_text()))


def _training(config: SaeConfig) -> dict[str, Any]:
    """Return the settings that a training reads."""
    settings = as_dict(config)
    settings.pop("path")
    unused = ["centre"] if config.centre == "none" else []
    unused += ["members", "support", "tune", "tune_lr"] if config.members == 0 else []
    return {name: value for name, value in settings.items() if name not in unused}


def _train(config: Config, source: Activations, members: list[TopKSAE], folder: Path) -> TopKSAE:
    """Train on the fit's cells; with sae.centre=gene on their tokens less the gene means of these same cells."""
    device = pick_device(config.device)
    if config.sae.centre == "none":
        return _fitted(source, source.tokens, members, config.sae, folder, device)
    kept(folder / "gene_means.npy", lambda: gene_means(source.tokens, source.fit).numpy())
    means = torch.from_numpy(np.load(folder / "gene_means.npy"))
    inner = [deviation_sae(one, means) for one in members]
    sae = _fitted(source, CentredTokens(source.tokens, means), inner, config.sae, folder, device)
    return sae.centre_genes(means, tuple(source.genes))


def _fitted(
    source: Activations, tokens: TokenSource, members: list[TopKSAE], config: SaeConfig, folder: Path, device: torch.device
) -> TopKSAE:
    """Train on tokens; of members, pool their features, keep the best supported, and train on from them."""
    if not members:
        return train_sae(tokens, source.fit, config, folder, device=device)
    pooled = pool(members, tokens, source.fit_sample)
    n = min(members[0].n_features, int((pooled.support >= config.support - 1e-9).sum()))
    if n < config.k:
        what = f"only {n} features are in {config.support:.0%} of the {len(members)} seeds"
        msg = f"{what}, fewer than sae.k={config.k}; set sae.support lower."
        raise SteerError(msg)
    rows = {"feature": np.arange(n), "support": pooled.support[:n], "energy": pooled.energy[:n]}
    pd.DataFrame(rows).to_csv(folder / "pool.csv", index=False)
    log.info(
        "consensus of %d seeds: %d features, %d of them in more than one seed; %d kept",
        len(members), len(pooled.clusters), int((pooled.support > 1 / len(members)).sum()), n,
    )  # fmt: skip
    start = merged(members, pooled.clusters[:n])
    tuned = replace(config, lr=config.tune_lr * config.lr, tokens=max(config.batch_size, int(config.tune * config.tokens)))
    return train_sae(tokens, source.fit, tuned, folder, device=device, start=start)
