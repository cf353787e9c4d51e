"""The loss of one batch and its gradients: sparse kernels on a CPU, gathered rows on a GPU, behind one function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..device import fast_int8, mixed_precision
from . import kernels, select
from .model import Codes, TopKSAE, weighted_rows
from .product import product

CACHED = 2**18
"""Pre-activations that are made at a time, where that is not fewer tokens than D: 1 MB, so that they are selected from the
cache. Fewer tokens than D would read the weights more often than that saves."""

SPARE = 1.5
"""Candidates of a screened selection, over k."""

GATHERED = 2**24
"""Numbers that are gathered at a time on a GPU: 64 MB."""

AUXK_STRIDE = 4
"""Of so many tokens one is looked at by the auxiliary loss, on a CPU."""

AUXK_DENSE = 4
"""Dead features over those active at a token, up to which the auxiliary loss takes dense products."""

MARGIN = 0.1
"""How far below the last batch's cut the next one's is looked for; how good it is changes only the time."""


class Step(NamedTuple):
    """What a batch gave.

    features, values : int and float32 (N,), the active codes, token by token
    error : float32 (B, D), x_hat - x
    loss : squared norm of the error as a share of the centred batch's; not finite where the batch is not: no gradient is set
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
    return (_sparse if x.device.type == "cpu" else _gathered)(sae, x, selection, last_cut)


@torch.no_grad()
def _gathered(sae: TopKSAE, x: Tensor, selection: str, last_cut: float) -> Step:
    """The same on any device: the encoder's product is the only dense one, all else are gathered rows, some codes at a time."""
    B, cut = len(x), -np.inf
    with mixed_precision(x.device):
        pre = sae.pre_activations(x)
    pre = pre.float()
    if selection == "topk":
        values, indices = pre.topk(sae.k, dim=-1, sorted=False)
        features, values = indices.flatten(), values.flatten()
        tokens = torch.arange(B, device=x.device).repeat_interleave(sae.k)
    else:
        flat = pre.flatten()
        at = flat.topk(min(B * sae.k, flat.numel()), sorted=False).indices.sort().values
        values, features, tokens = flat[at], at % sae.n_features, at // sae.n_features
        cut = float(values.min())
    del pre
    parts = [slice(start, start + GATHERED // x.shape[1]) for start in range(0, len(values), GATHERED // x.shape[1])]
    error, d_values = sae.b_dec - x, torch.empty_like(values)
    for part in parts:
        error.index_add_(0, tokens[part], values[part, None] * sae.W_dec[features[part]])
    total = (x - x.mean(0)).square().sum()
    slope = error * (2 / total)
    for part in parts:
        d_values[part] = (slope[tokens[part]] * sae.W_dec[features[part]]).sum(1)
    if sae.activation == "relu":
        d_values[values == 0] = 0
    dW_enc, dW_dec = torch.zeros_like(sae.W_dec), torch.zeros_like(sae.W_dec)
    for part in parts:
        dW_enc.index_add_(0, features[part], d_values[part, None] * x[tokens[part]])
        dW_dec.index_add_(0, features[part], values[part, None] * slope[tokens[part]])
    db_enc = torch.zeros_like(sae.b_enc).index_add_(0, features, d_values)
    sae.W_enc.grad, sae.b_enc.grad, sae.W_dec.grad, sae.b_dec.grad = dW_enc.T, db_enc, dW_dec, slope.sum(0)
    return Step(features, values, error, float(error.square().sum() / total), cut)


def _sparse(sae: TopKSAE, x: Tensor, selection: str, last_cut: float) -> Step:
    B, cut = len(x), -np.inf
    total = kernels.squares(x.numpy())[1]
    if not np.isfinite(total):  # the kernels take numbers to be finite
        return Step(torch.empty(0, dtype=torch.int32), torch.empty(0), x, float("nan"), cut)
    if selection == "topk":
        rows, columns = top_codes(sae, x, screen=fast_int8())
        values, features, starts = rows.ravel(), columns.ravel(), np.arange(0, B * sae.k + 1, sae.k)
    else:
        starts, values, features, cut = batch_codes(sae, x, last_cut)
    W_dec, error, d_values = sae.W_dec.detach().numpy(), np.empty(x.shape, np.float32), np.empty_like(values)
    kernels.decode(starts, values, features, W_dec, sae.b_dec.detach().numpy(), x.numpy(), error, d_values)
    if sae.activation == "relu":
        d_values[values == 0] = 0
    # last step's arrays are written over: fresh ones would have to be mapped in again
    dW_enc, dW_dec = (_gradient(weight, W_dec.shape) for weight in (sae.W_enc, sae.W_dec))
    db_enc, slope = np.empty(sae.n_features, np.float32), np.float32(2 / total)
    starts_F, order, tokens = kernels.by_feature(starts, features, sae.n_features)
    kernels.weight_gradients(starts_F, order, tokens, values, d_values, error, x.numpy(), slope, dW_enc, db_enc, dW_dec)
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
            pre = product(some, sae.W_enc, sae.b_enc, buffer[: len(some)])
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
    n, slope = len(columns), np.float32(2 * weight / max(kernels.squares(error.numpy())[0], 1e-12))
    k = min(max(1, x.shape[1] // 2), n)
    values, local = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int32)
    with torch.no_grad():
        # no relu: where it is shut it would hand the encoder no gradient, and the feature would stay dead
        W_enc, W_dec = sae.W_enc.T[columns], sae.W_dec[columns]
        pre = product(x, W_enc.T, sae.b_enc[columns])
        select.top_k(pre.numpy(), k, values, local)
        made = (_auxk_dense if n <= AUXK_DENSE * k else _auxk_sparse)(x, error, pre, values, local, W_dec, slope)
    grads = sae.W_enc.grad, sae.b_enc.grad, sae.W_dec.grad
    for whole, part in zip(grads, made, strict=True):
        assert whole is not None
        (whole.T if whole is sae.W_enc.grad else whole).index_add_(0, columns, part)


def _auxk_sparse(
    x: Tensor, error: Tensor, pre: Tensor, values: np.ndarray, local: np.ndarray, W_dec: Tensor, slope: np.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the dead features' W_enc, by rows, b_enc and W_dec."""
    (B, k), (n, D) = values.shape, W_dec.shape
    codes, features, starts = values.ravel(), local.ravel(), np.arange(0, B * k + 1, k)
    left, d_codes = np.empty((B, D), np.float32), np.empty_like(codes)
    kernels.decode(starts, codes, features, W_dec.numpy(), np.zeros(D, np.float32), -error.numpy(), left, d_codes)
    dW_enc, db_enc, dW_dec = np.empty((n, D), np.float32), np.empty(n, np.float32), np.empty((n, D), np.float32)
    starts_F, order, tokens = kernels.by_feature(starts, features, n)
    kernels.weight_gradients(starts_F, order, tokens, codes, d_codes, left, x.numpy(), slope, dW_enc, db_enc, dW_dec)
    return torch.from_numpy(dW_enc), torch.from_numpy(db_enc), torch.from_numpy(dW_dec)


def _auxk_dense(
    x: Tensor, error: Tensor, pre: Tensor, values: np.ndarray, local: np.ndarray, W_dec: Tensor, slope: np.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where so many of the dead features are active that dense products are faster."""
    active = torch.zeros_like(pre).scatter_(1, torch.from_numpy(local).long(), 1.0)
    codes = pre.mul_(active)
    left = product(codes, W_dec).add_(error)
    d_codes = product(left, W_dec.T).mul_(active).mul_(float(slope))
    db_enc = torch.from_numpy(d_codes.numpy().sum(0))
    return product(d_codes.T, x), db_enc, product(codes.T, left).mul_(float(slope))


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
