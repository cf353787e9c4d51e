"""Train a sparse autoencoder on stored activations.

Cost of a step of B tokens: 2 B D F FLOP for the encoder, O(B k D) for all else (step.py); memory 4 (2 D F) floats for
weights, gradients and Adam's moments, plus the reader's block. Tokens stream from disk and are never held as a whole.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..activations.tokens import TokenSource
from ..config import SaeConfig
from ..device import give_memory_back
from ..errors import SteerError
from ..progress import add_task, progress
from . import kernels
from .model import ThresholdSAE, TopKSAE, fold_scale
from .step import add_auxk_gradients, by_rows, set_gradients
from .update import update

CHECKPOINT_STEPS = 200
CURVE_STEPS = 20
"""A divisor of CHECKPOINT_STEPS: a resumed curve is the same."""
CALIBRATION_BATCHES = 16
SAMPLE_TOKENS = 65_536
SAMPLE_BYTES = 2**25
"""Of the tokens that the normalisation is fitted to, every so-manieth is kept, to be no more than this."""


class Scale(NamedTuple):
    """How training tokens are normalised: (x - centre) * scale has mean squared norm D."""

    centre: Tensor
    scale: float


def train_sae(
    source: TokenSource,
    cells: np.ndarray,
    config: SaeConfig,
    folder: Path,
    *,
    device: torch.device,
    start: TopKSAE | None = None,
) -> TopKSAE:
    """Train on the gene tokens of the given cells; a killed run resumes at its last checkpoint, to the same bytes.

    Parameters
    ----------
    cells : the training cells; no other cell is ever read
    folder : holds checkpoint.pt while training, and curve.jsonl: a row every 20 steps, means over those
    start : an SAE of raw activations whose weights training goes on from; its number of features is kept

    Returns
    -------
    TopKSAE
        of raw (not normalised) activations, on the CPU; with batch selection a ThresholdSAE

    Raises
    ------
    SteerError
        where the loss is no longer finite
    """
    centre, scale = normalisation(source, cells, config)
    n_features = config.expansion * source.width if start is None else start.n_features
    sae = TopKSAE(source.width, n_features, config.k, activation=config.activation, unit_norm=config.unit_norm)
    if start is None:
        sae.initialise(config.seed)
    else:
        _begin_at(sae, start, Scale(centre, scale))
    by_rows(sae).to(device)
    parameters = [p for p in sae.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=config.lr, betas=(0.9, 0.999), fused=True)
    idle = torch.zeros(sae.n_features, dtype=torch.int64, device=device)  # tokens since the feature last fired
    n_steps = math.ceil(config.tokens / config.batch_size)
    checkpoint, curve, first, cut = folder / "checkpoint.pt", [], 0, -math.inf
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        sae.load_state_dict(saved["sae"])
        optimiser.load_state_dict(saved["optimiser"])
        idle, curve, first = saved["idle"].to(device), saved["curve"], saved["step"]
    recent: list[tuple[float, float]] = []
    with progress() as bar:
        task = add_task(bar, "train-sae", n_steps * config.batch_size)
        clock = time.perf_counter()
        for step, tokens in _steps(source, cells, config, first, n_steps):
            x = (tokens.to(device) - centre.to(device)) * scale
            for group in optimiser.param_groups:
                group["lr"] = config.lr * learning_rate(step, n_steps, config.decay)
            fvu, l0, n_dead, cut = _step(sae, optimiser, x, idle, config, cut)
            if not math.isfinite(fvu):
                raise _stopped(step, bool(tokens.isnan().any() or centre.isnan().any()), config)
            recent.append((fvu, l0))
            last = step + 1 == n_steps
            if (step + 1) % CURVE_STEPS == 0 or last:
                mean = dict(zip(("fvu", "l0"), np.mean(recent, axis=0).tolist(), strict=True))
                curve.append({"tokens": (step + 1) * config.batch_size, **mean, "dead": int(n_dead)})
                rate = (step + 1 - first) * config.batch_size / (time.perf_counter() - clock)
                shown = f"FVU {mean['fvu']:.4f}  L0 {mean['l0']:.1f}  dead {int(n_dead)}  {rate:,.0f} tokens/s"
                bar.update(task, completed=curve[-1]["tokens"], note=shown)
                recent.clear()
                give_memory_back()
            if (step + 1) % CHECKPOINT_STEPS == 0 or last:
                state = {"sae": sae.state_dict(), "optimiser": optimiser.state_dict(), "idle": idle, "curve": curve}
                torch.save(state | {"step": step + 1}, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
    if config.selection == "batchtopk":
        sae = ThresholdSAE.of(sae, _threshold(sae, source, cells, config, Scale(centre, scale))).to(device)
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    checkpoint.unlink(missing_ok=True)
    fold_scale(sae, scale)
    with torch.no_grad():
        # training is always centred; without b_pre the centre goes into the biases, as the published SAEs have it
        if config.b_pre:
            sae.b_pre.copy_(centre)
        else:
            sae.b_enc.sub_(centre.to(device) @ sae.W_enc)
            sae.b_dec.add_(centre.to(device))
    return sae.cpu().eval().requires_grad_(False)


def _stopped(step: int, broken: bool, config: SaeConfig) -> SteerError:
    why = "the activations are not finite; extract anew with reuse=never."
    if not broken:
        why = f"it diverged; lower sae.lr={config.lr:g} or sae.clip={config.clip:g}."
    return SteerError(f"SAE training stopped at step {step + 1}: {why}")


def _begin_at(sae: TopKSAE, start: TopKSAE, scaled: Scale) -> None:
    """Copy an SAE's weights, as they are on normalised tokens, into an SAE that is to be trained."""
    with torch.no_grad():
        sae.W_enc.copy_(start.W_enc)
        sae.b_enc.copy_(scaled.scale * (start.b_enc + (scaled.centre - start.b_pre) @ start.W_enc))
        sae.W_dec.copy_(start.W_dec)
        sae.b_dec.copy_(scaled.scale * (start.b_dec + start.b_pre - scaled.centre))


def normalisation(source: TokenSource, cells: np.ndarray, config: SaeConfig) -> Scale:
    """Return the geometric median (Weiszfeld) of a sample of training tokens, and the scale to mean squared norm D."""
    every = math.ceil(4 * SAMPLE_TOKENS * source.width / SAMPLE_BYTES)
    sample: list[np.ndarray] = []
    for number, batch in enumerate(source.batches(cells, config.batch_size, seed=config.seed), 1):
        # a copy: what it is a part of can go
        sample.append(batch[::every].numpy().copy() if every > 1 else batch.numpy())
        if number * config.batch_size >= SAMPLE_TOKENS:
            break
    if not sample:
        sample = [batch.numpy() for batch in source.batches(cells, config.batch_size)]
    centre = np.sum([batch.sum(0, dtype=np.float64) for batch in sample], axis=0) / sum(map(len, sample))
    for _ in range(20):
        sums, weights, _ = _pulls(sample, centre)
        centre = sums / weights
    mean_square = _pulls(sample, centre)[2] / sum(map(len, sample))
    return Scale(torch.from_numpy(centre.astype(np.float32)), math.sqrt(source.width / max(mean_square, 1e-24)))


def _pulls(sample: list[np.ndarray], centre: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return kernels.pull's sums over all tokens, float64; added in one order, whatever the number of threads."""
    total: tuple[np.ndarray, float, float] = np.zeros(len(centre)), 0.0, 0.0
    for x in sample:
        n = math.ceil(len(x) / kernels.CHUNK)
        sums, weights, squares = np.empty((n, len(centre)), np.float32), np.empty(n), np.empty(n)
        kernels.pull(x, centre.astype(np.float32), sums, weights, squares)
        total = total[0] + sums.sum(0, dtype=np.float64), total[1] + float(weights.sum()), total[2] + float(squares.sum())
    return total


def learning_rate(step: int, steps: int, decay: str) -> float:
    """Return the share of the peak rate: 5 % linear warm-up, then as `sae.decay` says."""
    warm, last = max(1, steps // 20), max(1, steps // 5)
    if step < warm:
        return (step + 1) / warm
    if decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
    return min(1.0, (steps - step) / last)


def _steps(source: TokenSource, cells: np.ndarray, config: SaeConfig, first: int, n_steps: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, tokens) from step `first`; which tokens a step sees depends on its number and the seed alone."""
    per_epoch = source.n_tokens(cells) // config.batch_size
    if per_epoch == 0:
        n = source.n_tokens(cells)
        raise SteerError(f"sae.batch_size={config.batch_size} is more than the {n} training tokens there are.")
    step = first
    while step < n_steps:
        epoch, done = divmod(step, per_epoch)
        for tokens in source.batches(cells, config.batch_size, seed=(config.seed, epoch), skip=done):
            yield step, tokens
            step += 1
            if step >= n_steps:
                return


def _step(
    sae: TopKSAE, optimiser: torch.optim.Adam, x: Tensor, idle: Tensor, config: SaeConfig, last_cut: float = -math.inf
) -> tuple[float, float, Tensor, float]:
    """One optimiser step on normalised tokens (B, D); returns the batch's FVU, L0, number of dead features and cut."""
    step = set_gradients(sae, x, selection=config.selection, last_cut=last_cut)
    if not math.isfinite(step.loss):
        return math.nan, math.nan, idle.sum(), step.cut
    active = step.features if sae.activation == "identity" else step.features[step.values != 0]
    idle.add_(len(x))[active] = 0
    dead = idle > config.dead_after
    if config.auxk_weight > 0 and bool(dead.any()):
        add_auxk_gradients(sae, x, step.error, dead, config.auxk_weight)
    finite = update(sae, optimiser, config.clip)
    return step.loss if finite else math.nan, len(active) / len(x), dead.sum(), step.cut


def _threshold(sae: TopKSAE, source: TokenSource, cells: np.ndarray, config: SaeConfig, scaled: Scale) -> float:
    """Return the threshold that stands in for batch selection: the mean cut of some training batches (Bussmann et al. 2024)."""
    cuts = []
    for tokens in source.batches(cells, config.batch_size, seed=config.seed):
        x = (tokens - scaled.centre) * scaled.scale
        with torch.no_grad():
            pre = sae.pre_activations(x.to(sae.W_dec.device)).flatten()
        n = min(len(x) * sae.k, pre.numel())
        cuts.append(float(pre.kthvalue(pre.numel() - n + 1).values))
        if len(cuts) == CALIBRATION_BATCHES:
            break
    return float(np.mean(cuts))
