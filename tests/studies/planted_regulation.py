"""A hand-built network in which three TFs regulate their targets, and three are only co-expressed with theirs.

The stream of gene i is a value, on axis 0, and the network predicts y_i = x_i[0] + sum_j A_ij tanh(x_j[0]). Each TF has a
module of genes that share its factor, some strongly, some weakly; a sixth of each are its targets in the regulons, dealt
without regard to how strongly. A regulating TF has edges to its targets and none back; of a TF that is only co-expressed every
gene of the module has an edge both ways, as strong as its share of the factor: what a model of co-expression does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from steerpipe.data.regulons import Regulon
from steerpipe.sae.model import TopKSAE
from steerpipe.studies.regulation.arms import Arm, Design, measure
from steerpipe.studies.regulation.effects import SteeredCells, gene_codes
from steerpipe.studies.regulation.matching import Coexpression, coexpression

TFS, MODULE, TARGETS, BYSTANDERS, CELLS, WIDTH = 6, 90, 15, 30, 6, 8
REGULATES = ("TF0", "TF1", "TF2")


@dataclass(frozen=True)
class World:
    """The network's cells, its regulons, and its genes' co-expression in 300 others."""

    cells: SteeredCells
    sae: TopKSAE
    regulons: list[Regulon]
    coexpressed: Coexpression
    edges: np.ndarray

    def arms(self, **options) -> list[Arm]:
        codes = gene_codes(self.sae, self.cells)
        args = self.cells, codes, self.sae
        features, others, design = np.array([0]), np.array([1, 2]), Design(**options)
        return [arm for one in self.regulons for arm in measure(*args, one, features, self.regulons, others, design)]


def build(*, seed=0, strength=1.0) -> World:
    """strength : of every edge; 0 for a network whose genes do not see each other."""
    rng = np.random.default_rng(seed)
    G = TFS * (1 + MODULE) + BYSTANDERS
    A, loading, regulons = 0.002 * rng.standard_normal((G, G)), np.zeros((G, TFS)), []
    A = (A + A.T) / 2  # every gene sees every other a little, either way
    for t in range(TFS):
        module = TFS + t * MODULE + np.arange(MODULE)
        shared = rng.permutation(np.linspace(0.2, 0.9, MODULE))
        loading[module, t], loading[t, t] = shared, 0.95
        targets = np.sort(rng.choice(module, TARGETS, replace=False))
        signs = np.where(rng.random(TARGETS) < 0.3, -1, 1).astype(np.int8)
        if f"TF{t}" in REGULATES:
            A[targets, t] += signs * rng.uniform(0.05, 0.15, TARGETS)
        else:
            A[module, t] += 0.1 * shared
            A[t, module] += 0.1 * shared
        regulons.append(Regulon(f"TF{t}", t, targets, signs))
    np.fill_diagonal(A, 0)
    noise = np.sqrt(1 - (loading**2).sum(1))
    level = rng.normal(0, 0.7, G)

    def values(n):
        return level + rng.standard_normal((n, TFS)) @ loading.T + rng.standard_normal((n, G)) * noise

    counts = sp.csr_matrix(rng.poisson(20 * np.exp(0.7 * values(300))).astype(np.float32))
    streams = np.zeros((CELLS, G, WIDTH), np.float32)
    streams[..., 0] = 1 + 0.1 * values(CELLS)
    streams[..., 1:] = 0.1 * rng.standard_normal((CELLS, G, WIDTH - 1))
    matrix = torch.from_numpy(strength * A).float()

    def predict(stream, read):
        value = stream[..., 0]
        return value[:, read] + torch.tanh(value) @ matrix[read].T

    sae = TopKSAE(WIDTH, WIDTH, 2).requires_grad_(False)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(WIDTH))
        sae.W_dec.copy_(torch.eye(WIDTH))
        sae.W_dec[1:, 0] += 0.3  # a random feature is felt a little
    cells = SteeredCells(predict, torch.from_numpy(streams), torch.arange(G), batch_size=64)
    found = coexpression(counts, np.arange(G), np.arange(300), np.arange(TFS))
    return World(cells, sae, regulons, found, strength * A)
