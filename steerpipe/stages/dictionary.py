"""A dictionary on the stored activations, trained or imported, scored on the test cells, which it never saw."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..config import Config, SaeConfig, as_dict
from ..device import pick_device
from ..digest import file_digest
from ..errors import SteerError
from ..models.checkpoints import model_folder, read_config
from ..sae.consensus import merged, pool
from ..sae.io import import_sae, load_sae, sae_files, save_sae
from ..sae.metrics import score_sae
from ..sae.model import TopKSAE
from ..sae.train import train_sae
from ..store import Artefact
from .common import Context
from .extract import Activations, layer_index

log = logging.getLogger(__name__)
VERSION = 3


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


def dictionary(context: Context, source: Activations) -> Dictionary:
    """Return the configured SAE on the given activations, training or importing it when it is missing."""
    config = context.config.sae
    settings = as_dict(config)
    settings.pop("path")
    inputs: list[str] = []
    members = [dictionary(replace(context, config=replace(context.config, sae=one)), source) for one in member_configs(config)]
    if not members:
        for unused in ("members", "support", "tune", "tune_lr"):
            settings.pop(unused)
    if config.path is not None:
        files = sae_files(Path(config.path).expanduser())
        settings = {}
        inputs = [file_digest(file) for file in files]
    settings |= {"layer": layer_index(context.config), "test": source.split_key}  # one extraction may hold several layers

    def build(folder: Path) -> None:
        if config.path is None:
            device = pick_device(context.config.device)
            if members:
                sae = _consensus(source, [one.sae for one in members], config, folder, device)
            else:
                sae = train_sae(source.tokens, source.fit, config, folder, device=device)
            origin = {"steerpipe": as_dict(config)}
        else:
            sae = import_sae(Path(config.path).expanduser())
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
    artefact = context.store.get("train-sae", version=VERSION, config=settings, parents=parents, inputs=inputs, build=build)
    return Dictionary(artefact, load_sae(artefact.path), json.loads((artefact.path / "scores.json").read_text()))


def _consensus(source: Activations, members: list[TopKSAE], config: SaeConfig, folder: Path, device: torch.device) -> TopKSAE:
    """Pool the members' features, keep the best supported, and train on from them."""
    pooled = pool(members, source.tokens, source.fit_sample)
    enough = int((pooled.support >= config.support - 1e-9).sum())
    n = min(members[0].n_features, enough)
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
    return train_sae(source.tokens, source.fit, tuned, folder, device=device, start=start)
