"""The loss of one TopK batch and its gradients: sparse kernels on a CPU, autograd on a GPU, behind one function."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..device import mixed_precision
from . import kernels
from .model import Codes, TopKSAE, weighted_rows


class Step(NamedTuple):
    """What a batch gave: codes, x_hat - x (B, D), and the squared norm of the centred batch that the loss is a share of."""

    codes: Codes
    error: Tensor
    total: Tensor


def by_rows(sae: TopKSAE) -> TopKSAE:
    """Lay the encoder out feature by feature in memory (its shape stays (D, F)), as the sparse gradients need it."""
    sae.W_enc = torch.nn.Parameter(sae.W_enc.detach().T.contiguous().T)
    return sae


def set_gradients(sae: TopKSAE, x: Tensor) -> Step:
    """Set the gradients of ||x_hat - x||^2 / ||x - mean(x)||^2 on a batch x (B, D); b_pre is taken to be 0.

    On a CPU the cost is one dense product, 2 B D F FLOP, and O(B k D) for all else.
    """
    total = (x - x.mean(0)).square().sum()
    if x.device.type != "cpu":
        for parameter in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec):
            parameter.grad = None
        with mixed_precision(x.device):
            pre = sae.pre_activations(x)
        codes = Codes(*pre.float().topk(sae.k, dim=-1, sorted=False))
        error = weighted_rows(codes, sae.W_dec) + sae.b_dec - x
        (error.square().sum() / total).backward()  # type: ignore[no-untyped-call]
        return Step(Codes(codes.values.detach(), codes.indices), error.detach(), total)
    return _sparse(sae, x, total)


def _sparse(sae: TopKSAE, x: Tensor, total: Tensor) -> Step:
    with torch.no_grad():
        pre = sae.pre_activations(x)
    B, F = pre.shape
    values, indices = np.empty((B, sae.k), np.float32), np.empty((B, sae.k), np.int64)
    kernels.top_k(pre.numpy(), sae.k, values, indices)
    W_dec, error = sae.W_dec.detach().numpy(), np.empty(x.shape, np.float32)
    kernels.decode_error(values, indices, W_dec, sae.b_dec.detach().numpy(), x.numpy(), error)
    slope, d_values = error * np.float32(2 / float(total)), np.empty_like(values)
    kernels.code_gradients(slope, indices, W_dec, d_values)
    if sae.activation == "relu":
        d_values[values == 0] = 0
    dW_enc, db_enc, dW_dec = np.empty_like(W_dec), np.empty(F, np.float32), np.empty_like(W_dec)
    starts, order = kernels.by_feature(indices, F)
    kernels.weight_gradients(starts, order, values, d_values, slope, x.numpy(), dW_enc, db_enc, dW_dec)
    gradients = {"W_enc": dW_enc.T, "b_enc": db_enc, "W_dec": dW_dec, "b_dec": slope.sum(0)}
    for name, gradient in gradients.items():
        getattr(sae, name).grad = torch.from_numpy(gradient)
    return Step(Codes(torch.from_numpy(values), torch.from_numpy(indices)), torch.from_numpy(error), total)


def auxk_loss(sae: TopKSAE, x: Tensor, error: Tensor, dead: Tensor) -> Tensor:
    """Share of the error that the best dead features leave unexplained, so that they, encoder too, get a gradient.

    Parameters
    ----------
    x : (B, D) batch; error : (B, D) x_hat - x, detached; dead : bool (F,)
    """
    columns = dead.nonzero()[:, 0]
    k = min(max(1, x.shape[1] // 2), len(columns))
    # no relu: where it is shut it would hand the encoder no gradient, and the feature would stay dead
    with mixed_precision(x.device):
        pre = (x - sae.b_pre) @ sae.W_enc[:, columns] + sae.b_enc[columns]
    best = Codes(*pre.float().topk(k, dim=-1, sorted=False))
    explained = weighted_rows(best, sae.W_dec[columns])
    return (explained + error).square().sum() / error.square().sum().clamp_min(1e-12)
