"""The step that a batch's gradients lead to: clipped, by Adam, decoder rows back to length 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels
from .model import TopKSAE


def update(sae: TopKSAE, optimiser: torch.optim.Adam, clip: float) -> bool:
    """Step the weights by their gradients, no longer than clip; with `unit_norm` along the decoder rows' sphere.

    Returns whether the gradients were finite; where not, nothing is changed. On a CPU in two passes over the weights and to the
    same bits whatever the number of threads; the optimiser holds the state.
    """
    parameters = [p for p in sae.parameters() if p.requires_grad]
    if sae.W_dec.device.type == "cpu":
        factor = clip_factor(sae, clip)
        if factor == 0:
            return False
        for parameter in parameters:
            _adam(parameter, optimiser, factor, sae.unit_norm and parameter is sae.W_dec)
        return True
    grad = sae.W_dec.grad
    with torch.no_grad():
        if sae.unit_norm and grad is not None:  # what only changes the rows' length
            grad -= (grad * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
        if not bool(torch.nn.utils.clip_grad_norm_(parameters, clip).isfinite()):
            return False
        optimiser.step()
        if sae.unit_norm:
            sae.W_dec.copy_(F.normalize(sae.W_dec, dim=1))
    return True


def clip_factor(sae: TopKSAE, clip: float) -> float:
    """Return what a step's gradients are to be multiplied by, 0 where they are not finite.

    With `unit_norm` the part along decoder rows is taken out.
    """
    (W_enc, b_enc, W_dec, b_dec), norms = (_array(p.grad) for p in _weights(sae)), np.empty(sae.n_features, np.float32)
    kernels.finish_gradients(W_enc, b_enc, W_dec, sae.W_dec.detach().numpy(), sae.unit_norm, norms)
    norm = math.sqrt(float(norms.sum(dtype=np.float64)) + float(np.square(b_dec, dtype=np.float64).sum()))
    return min(1.0, clip / (norm + 1e-6)) if math.isfinite(norm) else 0.0


def _weights(sae: TopKSAE) -> tuple[Tensor, ...]:
    return sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec


def _array(tensor: Tensor | None) -> np.ndarray:
    """A weight or its gradient as numpy sees it, feature by feature in memory."""
    assert tensor is not None
    array: np.ndarray = tensor.detach().numpy()
    return array if array.flags.c_contiguous else array.T


def _adam(weight: Tensor, optimiser: torch.optim.Adam, factor: float, unit_norm: bool) -> None:
    group = next(group for group in optimiser.param_groups if any(p is weight for p in group["params"]))
    state = optimiser.state[weight]
    if not state:
        state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
    state["step"] += 1
    step, (beta1, beta2) = float(state["step"]), group["betas"]
    rows = [np.atleast_2d(_array(t)) for t in (weight, weight.grad, state["exp_avg"], state["exp_avg_sq"])]
    scalars = factor, beta1, beta2, group["lr"] / (1 - beta1**step), math.sqrt(1 - beta2**step), group["eps"]
    arguments: list[Any] = [*rows, *(np.float32(scalar) for scalar in scalars), unit_norm]
    kernels.adam(*arguments)
