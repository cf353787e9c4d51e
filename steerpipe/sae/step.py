"""The loss of one batch and its gradients: sparse kernels on a CPU, autograd on a GPU, behind one function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import fast_int8, mixed_precision
from . import kernels, select
from .model import Codes, TopKSAE, weighted_rows

CACHED = 2**18
"""Pre-activations that are made at a time, where that is not fewer tokens than D: 1 MB, so that they are selected from the
cache. Fewer tokens than D would read the weights more often than that saves."""

SPARE = 1.5
"""Candidates of a screened selection, over k."""

AUXK_STRIDE = 4
"""Of so many tokens one is looked at by the auxiliary loss, on a CPU."""

MARGIN = 0.1
"""How far below the last batch's cut the next one's is looked for; how good it is changes only the time."""


class Step(NamedTuple):
    """What a batch gave.

    features, values : int and float32 (N,), the active codes, token by token
    error : float32 (B, D), x_hat - x
    loss : squared norm of the error as a share of the centred batch's
    cut : the smallest code that was kept (batch selection; else -inf)
    """

    features: Tensor
    values: Tensor
    error: Tensor
    loss: float
    cut: float


def by_rows(sae: TopKSAE) -> TopKSAE:
    """Lay the encoder out feature by feature in memory (its shape stays (D, F)), as the sparse gradients need it."""
    sae.W_enc = torch.nn.Parameter(sae.W_enc.detach().T.contiguous().T)
    return sae


def set_gradients(sae: TopKSAE, x: Tensor, *, selection: str = "topk", last_cut: float = -np.inf) -> Step:
    """Set the gradients of ||x_hat - x||^2 / ||x - mean(x)||^2 on a batch x (B, D); b_pre is taken to be 0.

    On a CPU the cost is one dense product, 2 B D F FLOP, and O(B k D) for all else.

    Parameters
    ----------
    selection : topk, the k largest codes of each token; batchtopk, the B * k largest of the batch (Bussmann et al. 2024)
    last_cut : batchtopk: the cut of the batch before, which saves time and changes nothing else
    """
    return (_sparse if x.device.type == "cpu" else _autograd)(sae, x, selection, last_cut)


def _autograd(sae: TopKSAE, x: Tensor, selection: str, last_cut: float) -> Step:
    total = (x - x.mean(0)).square().sum()
    for parameter in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec):
        parameter.grad = None
    with mixed_precision(x.device):
        pre = sae.pre_activations(x)
    pre, cut = pre.float(), -np.inf
    if selection == "topk":
        values, indices = pre.topk(sae.k, dim=-1, sorted=False)
        features, values = indices.flatten(), values.flatten()
        starts = torch.arange(0, features.numel(), sae.k, device=x.device)
    else:
        flat = pre.flatten()
        at = flat.topk(min(len(x) * sae.k, flat.numel()), sorted=False).indices.sort().values
        values, features = flat[at], at % sae.n_features
        starts = torch.searchsorted(at, torch.arange(len(x), device=x.device) * sae.n_features)
        cut = float(values.detach().min())
    x_hat = F.embedding_bag(features, sae.W_dec, starts, mode="sum", per_sample_weights=values) + sae.b_dec
    error = x_hat - x
    loss = error.square().sum() / total
    loss.backward()  # type: ignore[no-untyped-call]
    return Step(features, values.detach(), error.detach(), float(loss.detach()), cut)


def _sparse(sae: TopKSAE, x: Tensor, selection: str, last_cut: float) -> Step:
    B, cut = len(x), -np.inf
    if selection == "topk":
        rows, columns = top_codes(sae, x, screen=fast_int8())
        values, features, starts = rows.ravel(), columns.ravel(), np.arange(0, B * sae.k + 1, sae.k)
    else:
        starts, values, features, cut = batch_codes(sae, x, last_cut)
    total = kernels.squares(x.numpy())[1]
    W_dec, error, d_values = sae.W_dec.detach().numpy(), np.empty(x.shape, np.float32), np.empty_like(values)
    kernels.decode(starts, values, features, W_dec, sae.b_dec.detach().numpy(), x.numpy(), error, d_values)
    if sae.activation == "relu":
        d_values[values == 0] = 0
    # last step's arrays are written over: fresh ones would have to be mapped in again
    dW_enc, dW_dec = (_gradient(weight, W_dec.shape) for weight in (sae.W_enc, sae.W_dec))
    db_enc, slope = np.empty(sae.n_features, np.float32), np.float32(2 / total)
    grouped = kernels.by_feature(starts, features, sae.n_features)
    kernels.weight_gradients(*grouped, values, d_values, error, x.numpy(), slope, dW_enc, db_enc, dW_dec)
    gradients = {"W_enc": dW_enc.T, "b_enc": db_enc, "W_dec": dW_dec, "b_dec": slope * error.sum(0)}
    for name, gradient in gradients.items():
        getattr(sae, name).grad = torch.from_numpy(gradient)
    loss = kernels.squares(error)[0] / total
    return Step(torch.from_numpy(features), torch.from_numpy(values), torch.from_numpy(error), loss, cut)


def _gradient(weight: Tensor, shape: tuple[int, int]) -> np.ndarray:
    if weight.grad is None:
        return np.empty(shape, np.float32)
    grad = weight.grad if weight.shape == shape else weight.grad.T
    return grad.numpy() if grad.is_contiguous() else np.empty(shape, np.float32)


def top_codes(sae: TopKSAE, x: Tensor, *, screen: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return (values, features), (B, k) each: the k largest codes of each token on a CPU, in no order.

    Parameters
    ----------
    screen : take SPARE * k candidates by a product in int8, and the k largest of their exact codes. What is returned is
        float32-exact; a code can be missed only where int8 ranks it below all candidates
    """
    k = sae.k
    values, features = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int32)
    if not screen:
        for start, pre in _encoded(sae, x):
            part = slice(start, start + len(pre))
            select.top_k(pre, k, values[part], features[part])
        return values, features
    n = min(int(SPARE * k), sae.n_features)
    candidates, coarse = np.empty((len(x), n), np.int32), np.empty((len(x), n), np.float32)
    W_enc, b_enc = sae.W_enc.detach().numpy().T, sae.b_enc.detach().numpy()
    (rows, scales), (columns, scale_F) = _quantised(x.numpy()), _quantised(W_enc)
    for part in _parts(sae, x):
        products = torch._int_mm(rows[part], columns.T).numpy()
        select.top_k(products, n, coarse[part], candidates[part], scale_F, b_enc, scales[part])
    select.refine(x.numpy(), W_enc, b_enc, candidates, values, features)
    if sae.activation == "relu":
        np.maximum(values, 0, out=values)
    return values, features


def _quantised(rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
    out, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    select.quantise(rows, out, scales)
    return torch.from_numpy(out), scales


def _parts(sae: TopKSAE, x: Tensor) -> Iterator[slice]:
    """Yield the tokens that are encoded at a time."""
    rows = max(x.shape[1], CACHED // sae.n_features)
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))


def _encoded(sae: TopKSAE, x: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first token, float32 pre-activations (b, F)) of a few tokens at a time, in one buffer that stays in the cache."""
    buffer = None
    with torch.no_grad():
        for part in _parts(sae, x):
            some = x[part]
            buffer = torch.empty(len(some), sae.n_features) if buffer is None else buffer
            pre = buffer[: len(some)]
            torch.addmm(sae.b_enc, some, sae.W_enc, out=pre)
            yield part.start, (pre.relu_() if sae.activation == "relu" else pre).numpy()


def batch_codes(sae: TopKSAE, x: Tensor, last_cut: float = -np.inf) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return (starts (B + 1,), values (N,), features (N,), cut): the N = B * k largest codes of a batch on a CPU.

    Exact whatever `last_cut` is: where too few codes exceed the bound guessed from it, all are looked at.
    """
    n = min(len(x) * sae.k, len(x) * sae.n_features)
    if last_cut == -np.inf:  # some tokens' own cut is a fair guess
        pre = next(_encoded(sae, x))[1].ravel()
        last_cut = float(np.quantile(pre, 1 - min(1.0, sae.k / sae.n_features)))
    for bound in (last_cut - MARGIN * abs(last_cut), -np.inf):
        found = []
        for _, pre in _encoded(sae, x):
            found.append(select.above(pre, bound))
        counts, values, features = (np.concatenate(column) for column in zip(*found, strict=True))
        if len(values) >= n:
            break
    return select.keep_largest(n, counts, values, features)


def add_auxk_gradients(sae: TopKSAE, x: Tensor, error: Tensor, dead: Tensor, weight: float) -> None:
    """Add the gradients of weight * the auxiliary loss to those that are set.

    On a CPU every AUXK_STRIDE-th token is looked at, at the cost of one product with the dead columns and of D / 2 codes each.

    Parameters
    ----------
    x : (B, D) batch; error : (B, D) x_hat - x, detached; dead : bool (F,), not all false
    """
    if x.device.type != "cpu":
        (weight * auxk_loss(sae, x, error, dead)).backward()  # type: ignore[no-untyped-call]
        return
    x, error, columns = x[::AUXK_STRIDE].contiguous(), error[::AUXK_STRIDE].contiguous(), dead.nonzero()[:, 0]
    B, D, n = *x.shape, len(columns)
    k = min(max(1, D // 2), n)
    values, local = np.empty((B, k), np.float32), np.empty((B, k), np.int32)
    with torch.no_grad():
        # no relu: where it is shut it would hand the encoder no gradient, and the feature would stay dead
        W_enc, W_dec = sae.W_enc.T[columns], sae.W_dec[columns].numpy()
        select.top_k(torch.addmm(sae.b_enc[columns], x, W_enc.T).numpy(), k, values, local)
    codes, features, starts = values.ravel(), local.ravel(), np.arange(0, B * k + 1, k)
    left, d_codes = np.empty((B, D), np.float32), np.empty_like(codes)
    kernels.decode(starts, codes, features, W_dec, np.zeros(D, np.float32), -error.numpy(), left, d_codes)
    slope = np.float32(2 * weight / max(kernels.squares(error.numpy())[0], 1e-12))
    dW_enc, db_enc, dW_dec = np.empty_like(W_dec), np.empty(n, np.float32), np.empty_like(W_dec)
    grouped = kernels.by_feature(starts, features, n)
    kernels.weight_gradients(*grouped, codes, d_codes, left, x.numpy(), slope, dW_enc, db_enc, dW_dec)
    grads = sae.W_enc.grad, sae.b_enc.grad, sae.W_dec.grad
    for whole, part in zip(grads, (dW_enc, db_enc, dW_dec), strict=True):
        assert whole is not None
        (whole.T if whole is sae.W_enc.grad else whole).index_add_(0, columns, torch.from_numpy(part))


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
