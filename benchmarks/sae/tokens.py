"""The tokens that every trainer is given, as files: mini's block 4 over PBMCs, run in our own environment, and synthetic ones.

python -m benchmarks.sae.tokens FOLDER writes real.npz: `train` and `held` float16 (n, 128), of cells that do not overlap.
PBMC3K where $STEER_DATA has it, else the embedded pbmc68k_reduced. The file says which weights it is of, and is made anew
when those have changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

N_TRAIN, N_HELD = 400_000, 40_000
LAYER = 4


def normalised(train: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float32, less the mean of the training tokens and scaled to mean squared norm D."""
    train, held = train.astype(np.float32), held.astype(np.float32)
    centre = train.mean(0, dtype=np.float64).astype(np.float32)
    train -= centre
    held -= centre
    scale = np.float32(np.sqrt(train.shape[1] / np.square(train).sum(1, dtype=np.float64).mean()))
    return train * scale, held * scale


def weights() -> str:
    """Return the digest of mini's weights."""
    from steerpipe.models.checkpoints import model_digest

    return model_digest("mini")


def current(file: Path) -> bool:
    """Return whether the file is there and of mini as it is now."""
    if not file.is_file():
        return False
    with np.load(file) as found:
        return "model" in found and str(found["model"]) == weights()


def real(folder: Path, seed: int = 0) -> None:
    """Write real.npz: tokens drawn evenly from the cells, in random order, held-out ones from a tenth of the cells."""
    from steerpipe.cli.hydra import compose
    from steerpipe.data.datasets import data_dir
    from steerpipe.pipeline.activations import activations
    from steerpipe.pipeline.context import Context
    from steerpipe.store import Store

    name = "pbmc3k" if (data_dir() / "pbmc3k.h5ad").is_file() else "pbmc68k_reduced"
    sample = ["dataset.max_cells=400", "extract.tokens=sample", "extract.n_tokens=1100"] if name == "pbmc3k" else []
    config = compose(f"dataset={name}", f"layer={LAYER}", "dataset.test_share=0.1", f"dataset.split_seed={seed}", *sample)
    made = activations(Context(config, Store(folder / ".store")))
    rng = np.random.default_rng(seed)
    found = {}
    for part, cells, n in (("train", made.fit, N_TRAIN), ("held", made.test, N_HELD)):
        tokens = np.concatenate(made.tokens.cells(cells))
        found[part] = tokens[rng.permutation(len(tokens))[:n]].astype(np.float16)
    np.savez(folder / "real.tmp.npz", dataset=np.array(name), model=np.array(weights()), **found)
    (folder / "real.tmp.npz").replace(folder / "real.npz")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    target.mkdir(parents=True, exist_ok=True)
    if not current(target / "real.npz"):
        real(target)
