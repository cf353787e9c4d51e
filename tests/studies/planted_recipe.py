"""A network in which the token of gene k drives feature k, and feature k the genes of programme k."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp
import torch

from steerpipe.models.base import Output, Tokens
from steerpipe.models.preprocess import DepthRule, model_input
from steerpipe.sae.model import TopKSAE
from steerpipe.steering.intervene import CachedCells
from steerpipe.steering.program import Program

DRIVERS, MEMBERS, BYSTANDERS, WIDTH, CELLS = 5, 6, 40, 16, 24
GENES = DRIVERS + DRIVERS * MEMBERS + BYSTANDERS
VALID = np.arange(GENES)


def members(k):
    """Columns of programme k."""
    return DRIVERS + k * MEMBERS + np.arange(MEMBERS)


class Planted(torch.nn.Module):
    """A token's stream: its value on the last axis, and on axis k half of 1 + the value of gene k, the same at all tokens."""

    def __init__(self, strength):
        super().__init__()
        self.genes = tuple(f"g{i}" for i in range(GENES))
        self.arch = SimpleNamespace(fixed=True)
        reads = torch.zeros(GENES + 2, WIDTH)
        reads[:, -1] = 1
        for k in range(DRIVERS):
            reads[members(k), k] = strength
        self.reads = torch.nn.Parameter(reads, requires_grad=False)

    def tokens(self, counts):
        return Tokens(model_input(counts, DepthRule()), torch.arange(GENES + 2))

    def stream(self, values, layer, *, read=None):
        values = values.values if isinstance(values, Tokens) else values
        x = torch.zeros(*values.shape, WIDTH)
        x[..., :DRIVERS] = 0.5 * (1 + values[:, None, :DRIVERS])
        x[..., -1] = values
        return x if read is None else x[:, read]

    def forward_from(self, layer, stream, read=None):
        x, reads = (stream, self.reads) if read is None else (stream[:, read], self.reads[read])
        return Output(x, (x * reads).sum(-1))


def build(*, strength=1.0, seed=0):
    """Return counts (CELLS, GENES), the cells' streams, and the SAE whose feature k is axis k."""
    rng = np.random.default_rng(seed)
    mean = np.r_[np.full(DRIVERS, 2.0), rng.lognormal(1, 0.6, GENES - DRIVERS)]
    counts = sp.csr_matrix(rng.poisson(mean, (CELLS, GENES)).astype(np.float32))
    model = Planted(strength)
    X = counts.toarray()
    values = torch.from_numpy(np.log1p(1e4 * X / X.sum(1, keepdims=True))).float()
    values = torch.cat([values, torch.full((CELLS, 2), 5.0)], 1)
    sae = TopKSAE(WIDTH, DRIVERS, DRIVERS).requires_grad_(False)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(WIDTH)[:, :DRIVERS])
        sae.W_dec.copy_(torch.eye(WIDTH)[:DRIVERS])
    return counts, CachedCells(model, 0, model.stream(values, 0).numpy(), torch.arange(GENES)), sae


def program(k):
    """Programme k, to rise."""
    return Program(members(k), np.zeros(0, np.int64))
