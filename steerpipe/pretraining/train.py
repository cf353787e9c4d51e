"""Read-depth-aware masked-gene pretraining, the way `mini` was made.

Each cell is thinned (binomial) to a target depth and again to an input depth; the model predicts the target's
log1p(CP10K) at masked *and* at visible genes, and the depth tokens tell it both depths. Some cells also lose genes, as a
dataset with a smaller panel would. Masked genes are drawn without a look at their values, so that the masked prediction
is unbiased; there a teacher's expectation stands in for most of the count (teacher.py). Cost: memory N * G * 2 bytes for
the counts; about 0.5 s a step of 16 cells at 226 tokens (2 cores, width 128).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.pretraining import Recipe
from ..device import mixed_precision
from ..errors import SteerError
from ..models.aido_cell import AidoCell
from .schedule import cosine
from .teacher import MaskedAutoencoder, mean_teacher, train_teacher
from .thinning import Batch, Mixture, ThinnedCells, log_cp10k

N_COMPONENTS = 48
GUIDE_LAYER = 2
GUIDE_WEIGHT = 2.0


def gene_weights(counts: np.ndarray) -> Tensor:
    """Return float32 (G,) loss weights, 1 / standard deviation of log1p CP10K, mean 1: rare markers count too."""
    sd = log_cp10k(counts).std(0)
    weight = 1 / (sd + 0.1)
    return torch.from_numpy((weight / weight.mean()).astype(np.float32))


def loss_of(model: AidoCell, batch: Batch, weights: Tensor, guide: Guide | None = None, scores: Tensor | None = None) -> Tensor:
    """Squared error of predicted log1p CP10K, averaged over masked and (weighted) over visible genes, then summed.

    With a guide, every token's stream after block GUIDE_LAYER must also tell the cell's principal component scores
    (B, n): that teaches the lower blocks to gather the cell's state many times sooner than the genes' noise does.
    """
    with mixed_precision(batch.values.device, training=True):
        stream = model.stream(batch.values, GUIDE_LAYER, batch.positions)
        y = model.forward_from(GUIDE_LAYER, stream).expression
    assert y is not None
    n = batch.target.shape[1]
    error = (y[:, :n].float() - batch.target).square()
    weighted = error * weights[batch.positions[:, :n]]
    seen = ~batch.masked & batch.present
    terms = [e[which].mean() for e, which in ((error, batch.masked), (weighted, seen)) if bool(which.any())]
    if guide is not None and scores is not None:
        terms.append(GUIDE_WEIGHT * guide(stream, scores))
    return torch.stack(terms).sum()


class Guide(nn.Module):
    """A throwaway linear reader of principal component scores from tokens; not part of the model."""

    def __init__(self, width: int, share: np.ndarray) -> None:
        super().__init__()
        self.read = nn.Linear(width, len(share))
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        self.register_buffer("share", torch.from_numpy(share))

    def forward(self, stream: Tensor, scores: Tensor) -> Tensor:
        """Share-weighted squared error of the scores (B, n) read from each token of (B, S, D)."""
        error = self.read(F.layer_norm(stream.float(), stream.shape[-1:])) - scores[:, None]
        score: Tensor = (error.square() * self.share).sum(-1).mean()
        return score


def masked_score(model: AidoCell, data: ThinnedCells, cells: np.ndarray, mean: Tensor) -> float:
    """Masked squared error over that of the training gene means (1 = as bad as the mean), on held-out cells.

    The target is each cell at its full depth, as the means are.
    """
    data = ThinnedCells(data.counts, replace(data.recipe, full_depth=1.0), data.panels, mixture=data.mixture)
    rng = np.random.default_rng(10_000)
    error, base = 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(cells), 64):
            batch = data.draw(rng, cells[start : start + 64], 640)
            n = batch.target.shape[1]
            y = model(batch.values, batch.positions).expression[:, :n]
            truth = batch.target[batch.masked]
            error += float((y[batch.masked] - truth).square().sum())
            base += float((mean[batch.positions[:, :n]][batch.masked] - truth).square().sum())
    return error / base if base > 0 else float("nan")  # of a few cells, none may be masked


def pretrain(
    model: AidoCell,
    counts: np.ndarray,
    recipe: Recipe,
    folder: Path,
    *,
    panels: Sequence[np.ndarray] = (),
    mixture: Mixture | None = None,
    started: bool = False,
    minutes: float | None = None,
    report: Callable[[int, dict[str, float]], None] = lambda step, row: None,
) -> AidoCell:
    """Initialise and train a model on full-depth counts; resumes from `folder`/checkpoint.pt to the same bytes.

    Parameters
    ----------
    counts : uint16 (N, G) raw counts over the model's genes; 5 % of the cells are held out for the curve
    folder : where checkpoint.pt and curve.jsonl go
    mixture : which cells are of which dataset, where there are several
    started : the model comes with the weights of the first phase, which is left out
    minutes : stop after so long, with a checkpoint
    report : called with (step, row) at every row of the curve

    Raises
    ------
    SteerError
        The time ran out; the same call resumes.
    """
    order = np.random.default_rng(recipe.seed).permutation(len(counts))
    held, train = np.sort(order[: len(order) // 20]), np.sort(order[len(order) // 20 :])
    data = ThinnedCells(counts, recipe, panels, mixture=mixture)
    components = principal_components(counts[train], min(N_COMPONENTS, model.arch.hidden_size // 2))
    if not started:
        initialise(model, recipe.seed, components)
    mean = torch.from_numpy(components.mean)
    weights = gene_weights(counts[train])
    scores = torch.zeros(len(counts), components.scores.shape[1])
    scores[train] = torch.from_numpy(components.scores)
    guide = Guide(model.arch.hidden_size, components.share)
    shifted = ThinnedCells(counts, recipe, panels, gene_shift=recipe.settle_shift, mixture=mixture)
    if recipe.teacher_weight > 0:
        if not started:
            data.teacher = _teacher(data, train, recipe, folder, 0)
        if recipe.settle_steps or recipe.finish_steps:
            numbers = range(1, 1 + recipe.settle_teachers)
            shifted.teacher = mean_teacher([_teacher(shifted, train, recipe, folder, number) for number in numbers])
    optimiser = _optimiser([*model.parameters(), *guide.parameters()], recipe)
    total = recipe.total_steps
    settle, finish = recipe.steps, recipe.steps + recipe.settle_steps  # first steps of the phases
    first = settle if started else 0
    recent: list[float] = []
    curve: list[dict[str, float]] = []
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        first, curve = saved["step"], saved["curve"]
        model.load_state_dict(saved["model"])
        guide.load_state_dict(saved["guide"])
        if first > settle:
            optimiser = _optimiser(model.parameters(), recipe)
        optimiser.load_state_dict(saved["optimiser"])
    model.train().requires_grad_(True)
    clock = time.monotonic()
    for step in range(first, total):
        settling = step >= settle
        if step in (settle, finish):
            model.load_state_dict({name: p.half().float() for name, p in model.state_dict().items()})
            optimiser = _optimiser(model.parameters(), recipe)
        for group in optimiser.param_groups:
            group["lr"] = _rate(recipe, step)
        rng = np.random.default_rng([recipe.seed, step])  # a step's draw depends on its number alone: resumable
        size, context = _shape(recipe, step)
        cells = data.choose(rng, train, size)
        batch = (shifted if settling else data).draw(rng, cells, context, full=context is None)
        seen = weights * (recipe.finish_visible if step >= finish else recipe.settle_visible if settling else 1.0)
        loss = loss_of(model, batch, seen, None if settling else guide, scores[cells])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
        optimiser.step()
        recent.append(float(loss.detach()))
        if (step + 1) % 200 == 0 or step + 1 in (settle, finish, total):
            row = {"step": step + 1, "loss": float(np.mean(recent))}
            if (step + 1) % 600 == 0 or step + 1 in (settle, finish, total):
                row["masked_over_mean"] = masked_score(model, data, held, mean)
            curve.append(row)
            (folder / "curve.jsonl").write_text("".join(json.dumps(r) + "\n" for r in curve))
            report(step + 1, row)
            recent.clear()
            state = {
                "model": model.state_dict(),
                "guide": guide.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
                "curve": curve,
            }
            _save(checkpoint, state)
            if minutes is not None and time.monotonic() - clock > 60 * minutes and step + 1 < total:
                raise SteerError(f"stopped after {step + 1} of {total} steps; the same command resumes.")
    return model.eval().requires_grad_(False)


def _optimiser(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    everything = list(parameters)
    decay, plain = [p for p in everything if p.ndim > 1], [p for p in everything if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step: a cosine for each phase."""
    if step < recipe.steps:
        return recipe.lr * cosine(step, recipe.steps, warmup=300)
    step -= recipe.steps
    if step < recipe.settle_steps:
        return recipe.settle_lr * cosine(step, recipe.settle_steps, warmup=30)
    return recipe.finish_lr * cosine(step - recipe.settle_steps, recipe.finish_steps, warmup=30)


def _shape(recipe: Recipe, step: int) -> tuple[int, int | None]:
    """Cells of a step and genes in its contexts, None for all."""
    if step >= recipe.steps:
        long = step % 2 == 1 and step < recipe.steps + recipe.settle_steps
        return (2 if long else 1) * recipe.full_batch_size, recipe.long_context if long else None
    if step >= recipe.steps - recipe.full_steps:
        return recipe.full_batch_size, None
    return (recipe.full_batch_size, recipe.long_context) if step % 8 == 7 else (recipe.batch_size, recipe.context)


def initialise(model: AidoCell, seed: int, components: Components | None = None) -> AidoCell:
    """Draw the weights: normal with sd 0.02, as AIDO.Cell's initializer_range; biases 0, LayerNorms 1.

    With components the genes' position embeddings start from their loadings, so that co-expressed genes start out
    alike, and from their mean expression.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = ".ln." in name or "LayerNorm" in name
            if p.ndim > 1:
                # the value embedding works on raw scalars: at 0.02 its softmax over bins would hardly leave uniform
                p.normal_(0.0, 0.5 if "gene_embedding.linear" in name else 0.02, generator=generator)
            else:
                p.fill_(1.0 if norm and name.endswith("weight") else 0.0)
        if components is not None:
            level = (components.mean - components.mean.mean()) / components.mean.std() * 0.1
            start = torch.from_numpy(np.column_stack([components.loadings, level]))
            model.positions[: start.shape[0], : start.shape[1]] += start
    return model


class Components(NamedTuple):
    """Principal components of the training cells' standardised log1p CP10K.

    loadings: float32 (G, n), sd 0.05; scores: float32 (N, n), sd 1; share: float32 (n,), each one's share of the
    first n singular values; mean: float32 (G,) mean log1p CP10K.
    """

    loadings: np.ndarray
    scores: np.ndarray
    share: np.ndarray
    mean: np.ndarray


def principal_components(counts: np.ndarray, n: int = N_COMPONENTS) -> Components:
    """Return the first n principal components of counts (N, G); rare genes are kept from dominating by sd + 0.1."""
    values = log_cp10k(counts)
    mean = values.mean(0)
    scores, spread, axes = np.linalg.svd((values - mean) / (values.std(0) + 0.1), full_matrices=False)
    scores, spread, loadings = scores[:, :n] * spread[:n], spread[:n], axes[:n].T * np.sqrt(spread[:n])
    parts = (loadings / loadings.std() * 0.05, scores / scores.std(0), spread / spread.sum(), mean)
    return Components(*(part.astype(np.float32) for part in parts))


def _teacher(data: ThinnedCells, train: np.ndarray, recipe: Recipe, folder: Path, number: int) -> MaskedAutoencoder:
    """Return a teacher of these cells, trained now or by the run that this one resumes."""
    path = folder / f"teacher_{number}.pt"
    if not path.is_file():
        _save(path, train_teacher(data, train, replace(recipe, seed=recipe.seed + number)).state_dict())
    teacher = MaskedAutoencoder(data.counts.shape[1])
    teacher.load_state_dict(torch.load(path, weights_only=True))
    return teacher.eval().requires_grad_(False)


def _save(path: Path, state: Mapping[str, object]) -> None:
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)
