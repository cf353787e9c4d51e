"""Adapters: small networks that map a state, or a perturbation's features, to a sparse recipe in one pass.

They minimise the population latent objective of many tasks at once, in closed form,

    || gap - (theta * zbar) W ||^2 + lam ||theta||_1,

gap (D,) being the target's mean embedding less the source's and zbar (F,) the source's mean code. With unit decoder rows w_f
and s_f = |zbar_f| |W_f|, the network's unknown is v_f = theta_f s_f, whose columns all have length 1 and whose penalty is
lam / s_f; it is soft-thresholded, so that zeros are exact zeros.

    linear   v = soft(A x + c)
    mlp      v = soft(MLP(x)), two hidden layers
    lista    K unrolled proximal steps v <- soft(v + a_k X'(gap - X v), b_k a_k lam / 2s) with learned step sizes a_k,
             thresholds b_k and momenta (Gregor and LeCun, ICML 2010); the Gram matrix X'X is known, and not learned

At its start lista is FISTA (Beck and Teboulle 2009) cut off after K steps. The exact solver is lasso.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..config.adapter import NETWORKS
from ..errors import SteerError, unknown

LEAST = 1e-6
"""Of the largest s_f: a feature below it is silent in the source and stays at 0."""


class Tasks(NamedTuple):
    """Some tasks, float32 tensors.

    Attributes
    ----------
    inputs : (B, P), what the network sees
    zbar : (B, F), the source's mean codes
    gaps : (B, D), mean target less mean source embedding
    lam : (B,), the penalty's weight
    """

    inputs: Tensor
    zbar: Tensor
    gaps: Tensor
    lam: Tensor

    @classmethod
    def of(cls, inputs: np.ndarray, zbar: np.ndarray, gaps: np.ndarray, lam: np.ndarray) -> Self:
        """Return tasks of arrays."""
        return cls(*(torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (inputs, zbar, gaps, lam)))

    def to(self, device: torch.device) -> Tasks:
        """Return the tasks on a device."""
        return Tasks(*(a.to(device) for a in self))


def soft(values: Tensor, threshold: Tensor) -> Tensor:
    """Return sign(v) max(|v| - t, 0)."""
    return torch.sign(values) * torch.relu(values.abs() - threshold)


def lam_max(zbar: np.ndarray, W: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Return the least penalty at which theta = 0 is optimal, of each task: (B, F), (F, D), (B, D) -> (B,)."""
    return np.asarray(2 * np.abs(zbar * (gaps @ W.T)).max(1))


class Adapter(nn.Module):
    """A network from inputs (B, P) to recipes theta (B, F).

    Parameters
    ----------
    network : one of NETWORKS
    n_inputs : P
    W : (F, D) decoder
    knows_gap : the gap is the input (inverse task). Otherwise `scale` is its unit, and lista predicts it linearly from the
        inputs before it unrolls.
    scale : the length of a usual gap; not read with `knows_gap`
    """

    def __init__(
        self,
        network: str,
        n_inputs: int,
        W: np.ndarray,
        *,
        hidden: int = 256,
        unrolled: int = 16,
        knows_gap: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise unknown("adapter network", network, NETWORKS)
        self.network, self.knows_gap, self.scale = network, knows_gap, scale
        weight = torch.as_tensor(np.asarray(W), dtype=torch.float32)
        self.norms: Tensor
        self.unit: Tensor
        self.register_buffer("norms", weight.norm(dim=1))
        self.register_buffer("unit", weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12))
        n_features, width = weight.shape
        if network == "lista":
            largest = float(torch.linalg.matrix_norm(self.unit.double(), 2) ** 2)
            self.log_step = nn.Parameter(torch.full((unrolled,), -math.log(largest)))
            self.log_threshold = nn.Parameter(torch.zeros(unrolled))
            self.momentum = nn.Parameter(torch.tensor(_fista_momenta(unrolled)))
            if not knows_gap:
                self.body: nn.Module = nn.Linear(n_inputs, width)
        else:
            self.log_threshold = nn.Parameter(torch.zeros(1))
            sizes = [n_inputs, n_features] if network == "linear" else [n_inputs, hidden, hidden, n_features]
            layers: list[nn.Module] = []
            for before, after in pairwise(sizes):
                layers += [nn.Linear(before, after), nn.GELU()]
            self.body = nn.Sequential(*layers[:-1])

    def forward(self, tasks: Tasks) -> Tensor:
        """Return theta (B, F); the tasks' gaps are not read unless the network knows them."""
        size = tasks.zbar.abs() * self.norms
        there = size > LEAST * size.amax(1, keepdim=True)
        size = torch.where(there, size, torch.ones_like(size))
        unit = self.unit_of(tasks)[:, None]
        penalty = tasks.lam[:, None] / (2 * size * unit)
        if self.network == "lista":
            gaps = tasks.gaps / unit if self.knows_gap else self.body(tasks.inputs)
            v = self._unrolled(gaps, torch.sign(tasks.zbar) * there, penalty)
        else:
            v = soft(self.body(tasks.inputs), penalty * self.log_threshold.exp())
        return (v * unit / size) * there

    def unit_of(self, tasks: Tasks) -> Tensor:
        """Return what v and the loss are measured in, (B,): a lasso at a share of lambda_max scales with its gap."""
        if self.knows_gap:
            length: Tensor = torch.linalg.vector_norm(tasks.gaps, dim=1)
            return length.clamp_min(1e-12)
        return torch.full_like(tasks.lam, self.scale)

    def _unrolled(self, gaps: Tensor, sign: Tensor, penalty: Tensor) -> Tensor:
        v = before = torch.zeros_like(sign)
        for log_step, log_threshold, momentum in zip(self.log_step, self.log_threshold, self.momentum, strict=True):
            ahead = v + momentum * (v - before)
            residual = gaps - (ahead * sign) @ self.unit
            step = log_step.exp()
            before, v = v, soft(ahead + step * sign * (residual @ self.unit.T), step * log_threshold.exp() * penalty)
        return v


def _fista_momenta(n: int) -> list[float]:
    """FISTA's (t_k - 1) / t_(k+1); the first step has no two before it."""
    t, found = 1.0, []
    for _ in range(n):
        after = (1 + math.sqrt(1 + 4 * t * t)) / 2
        found.append((t - 1) / after)
        t = after
    return [0.0, *found][:n]


def objective(theta: Tensor, tasks: Tasks, W: Tensor) -> Tensor:
    """Return the penalised objective of each task, (B,)."""
    residual = tasks.gaps - (theta * tasks.zbar) @ W
    return residual.square().sum(1) + tasks.lam * theta.abs().sum(1)


def train(
    adapter: Adapter,
    draw: Callable[[np.random.Generator], Tasks],
    W: np.ndarray,
    *,
    steps: int,
    lr: float,
    weight_decay: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Train on freshly drawn tasks by AdamW with a cosine schedule, and return the mean relative objective of each step.

    Each task counts in units of its objective at theta = 0, |gap|^2; where the gap is not known to the network, in that of a
    usual gap, so that noise about small effects weighs no more than large ones.
    """
    adapter.to(device).train()
    weight = torch.as_tensor(np.asarray(W), dtype=torch.float32, device=device)
    # the parameters of lista are few, and each is a number with a meaning: they are not drawn to 0
    decayed = {True: weight_decay, False: 0.0}
    groups = [
        {"params": [p], "weight_decay": decayed[name.startswith("body") and p.dim() > 1]}
        for name, p in adapter.named_parameters()
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(steps):
        tasks = draw(rng).to(torch.device(device))
        optimiser.zero_grad()
        loss = (objective(adapter(tasks), tasks, weight) / adapter.unit_of(tasks).square()).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise SteerError(f"the adapter's loss is not finite at step {len(losses)}: lower adapter.lr.")
    adapter.eval()
    return losses


def made(seed: int, make: Callable[[], Adapter]) -> Adapter:
    """Return a network whose first weights are those of a seed; the caller's random numbers go on as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


@torch.no_grad()
def recipes(adapter: Adapter, tasks: Tasks) -> np.ndarray:
    """Return theta of each task, float64 (B, F)."""
    return np.asarray(adapter(tasks.to(adapter.norms.device)).double().cpu().numpy())
