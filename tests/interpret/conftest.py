"""Tokens whose features, genes and cell types are planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.activations.tokens import TokenPolicy, TokenSource
from steerpipe.sae.model import TopKSAE

WIDTH, GENES, CELLS = 12, 60, 40


class Planted(TokenSource):
    """Token of gene g in cell c = sum of what is planted there, on orthogonal unit directions; feature f is direction f.

    Feature 0 fires on genes 0..11 in every cell, feature 1 on genes 20..39 in type B alone, feature 2 on gene 50 alone, at
    minus 3; feature 3 never. Cell c lacks gene c, as a sampled or expressed-only token policy would.
    """

    def __init__(self, *, keep_all=False):
        self.n_cells, self.n_genes, self.width, self.policy = CELLS, GENES, WIDTH, TokenPolicy()
        self.types = ["A"] * 24 + ["B"] * 16
        self.codes = np.zeros((CELLS, GENES, 4), np.float32)
        self.codes[:, :12, 0] = np.linspace(4, 2, 12)
        self.codes[24:, 20:40, 1] = 1 + np.arange(16)[:, None] / 16
        self.codes[:, 50, 2] = -3
        self.keep = np.ones((CELLS, GENES), bool)
        if not keep_all:
            self.keep[np.arange(CELLS), np.arange(CELLS)] = False

    def columns(self, ids):
        return [np.flatnonzero(self.keep[i]) for i in ids]

    def cells(self, ids):
        out = []
        for i in ids:
            x = np.zeros((GENES, WIDTH), np.float32)
            x[:, :4] = self.codes[i]
            out.append(x[self.keep[i]])
        return out


@pytest.fixture
def planted():
    return Planted()


@pytest.fixture
def dictionary():
    """An SAE whose feature f is direction f; signed codes come out as they were planted, by |z|."""
    sae = TopKSAE(WIDTH, WIDTH, WIDTH).requires_grad_(False)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(WIDTH))
        sae.W_dec.copy_(torch.eye(WIDTH))
    return sae
