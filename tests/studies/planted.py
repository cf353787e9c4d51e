"""A residual network whose weights from feature to feature are known: two orthonormal dictionaries, a block, a linear head."""

from __future__ import annotations

import numpy as np
import torch

from steerpipe.models.base import Output
from steerpipe.sae.model import TopKSAE
from steerpipe.studies.circuits.network import LayeredCells

WIDTH, FEATURES, TOKENS = 128, 48, 30
LOW, HIGH = 0, 1


class Planted(torch.nn.Module):
    """Block 1 adds relu(x A) W B at each token, and half of its mean over tokens at all; gene g is x . readout_g."""

    has_head = True

    def __init__(self, A, B, W, readout):
        super().__init__()
        self.A, self.B, self.W, self.readout = A, B, W, readout

    def advance(self, stream, layer, to, genes=None):
        if layer >= HIGH or to < HIGH:
            return stream
        written = torch.relu(stream @ self.A.T) @ self.W
        return stream + (written + 0.5 * written.mean(1, keepdim=True)) @ self.B

    def forward_from(self, layer, stream, read=None, genes=None):
        x = self.advance(stream, layer, HIGH)[:, read]
        return Output(x, (x * self.readout[: x.shape[1]]).sum(-1))


def dictionary(rows, k):
    """The SAE that reads orthonormal rows exactly."""
    sae = TopKSAE(rows.shape[1], len(rows), k)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
    return sae.requires_grad_(False)


def plant(seed=0, *, weights=None, n_cells=20, direct=0.0, k=44):
    """Return cells of the network, and its weights W (F, F) from features at layer 0 to features at layer 1.

    A feature of layer 0 has about one edge. Each gene reads the sum of the codes at layer 1, and `direct` of those at layer 0.
    Of the 48 codes at layer 1 a token has its k largest: one that falls lets others in.
    """
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].T
    A, B = rows[:FEATURES], rows[FEATURES : 2 * FEATURES]
    if weights is None:
        weights = np.zeros((FEATURES, FEATURES))
        at = rng.permutation(FEATURES)
        weights[np.arange(FEATURES), at] = rng.choice([-1, 1], FEATURES) * rng.uniform(0.6, 1.4, FEATURES)
        weights[rng.random(FEATURES) < 0.2] = 0
    shape = (n_cells, TOKENS + 2, FEATURES)
    on = rng.random(shape) < 0.15
    level = rng.lognormal(0, 0.3, (n_cells, 1, FEATURES))
    low = on * level * rng.uniform(0.5, 1.5, shape)
    high = 4 + 0.5 * rng.standard_normal((n_cells, 1, FEATURES)) + 0.3 * rng.standard_normal(shape)
    stream = low @ A + high @ B + 0.05 * rng.standard_normal((*shape[:2], WIDTH - 2 * FEATURES)) @ rows[2 * FEATURES :]
    tensors = [torch.from_numpy(np.asarray(x, np.float32)) for x in (A, B, weights)]
    readout = (tensors[1].sum(0) + direct * tensors[0].sum(0)).expand(TOKENS, -1)
    model = Planted(*tensors, readout)
    valid = torch.arange(TOKENS)
    low_stream = torch.from_numpy(stream.astype(np.float32))
    streams = {LOW: low_stream.numpy(), HIGH: model.advance(low_stream, LOW, HIGH).numpy()}
    saes = {LOW: dictionary(tensors[0], 16), HIGH: dictionary(tensors[1], k)}
    return LayeredCells(model, streams, saes, valid, batch_size=4), weights
