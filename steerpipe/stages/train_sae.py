"""`steer train-sae`: a dictionary on the stored activations, scored on cells that it never saw."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import as_dict
from ..device import pick_device
from ..errors import SteerError
from ..sae.io import load_sae, save_sae
from ..sae.metrics import score_sae
from ..sae.model import TopKSAE
from ..sae.train import split_cells, train_sae
from ..store import Artefact
from .common import Context
from .extract import Activations, activations

VERSION = 1


@dataclass(frozen=True)
class Dictionary:
    """A trained SAE and its scores (flat, `sae_train/...` and `sae_held/...`)."""

    artefact: Artefact
    sae: TopKSAE
    scores: dict[str, float]


def main(context: Context) -> None:
    """Train, and report scores, the curve and each feature's density."""
    found = dictionary(context, activations(context))
    context.run.metrics(found.scores | {"sae/seconds": found.artefact.seconds})
    context.run.curve([json.loads(line) for line in (found.artefact.path / "curve.jsonl").read_text().splitlines()])
    context.run.table("features", pd.read_csv(found.artefact.path / "features.csv"))


def dictionary(context: Context, source: Activations) -> Dictionary:
    """Return the configured SAE on the given activations, training it when it is missing."""
    config = context.config.sae
    n_features = config.expansion * source.tokens.width
    if config.k > n_features:
        raise SteerError(f"sae.k={config.k} is more than the {n_features} features of expansion {config.expansion}.")

    def build(folder: Path) -> None:
        train, held = split_cells(source.tokens.n_cells, config.held_out, config.seed)
        sae = train_sae(source.tokens, train, config, folder, device=pick_device(context.config.device))
        save_sae(sae, folder, {"steerpipe": as_dict(config), "activations": source.artefact.key})
        sae = load_sae(folder)  # what is scored is what later runs will read
        # as many training cells as held-out ones: enough for a figure beside them
        scores = {"sae_train": score_sae(sae, source.tokens, train[:: max(1, len(train) // len(held))])}
        scores["sae_held"] = score_sae(sae, source.tokens, held)
        flat = {name: value for prefix, score in scores.items() for name, value in score.flat(prefix).items()}
        (folder / "scores.json").write_text(json.dumps(flat, indent=1))
        density = {f"density_{name.removeprefix('sae_')}": score.density for name, score in scores.items()}
        pd.DataFrame({"feature": np.arange(sae.n_features), **density}).to_csv(folder / "features.csv", index=False)

    artefact = context.store.get("train-sae", version=VERSION, config=as_dict(config), parents=[source.artefact], build=build)
    return Dictionary(artefact, load_sae(artefact.path), json.loads((artefact.path / "scores.json").read_text()))
