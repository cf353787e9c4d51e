"""One dictionary of several seeds: their features pooled, merged where they match, and kept by how many seeds have them.

What recurs over seeds carries the signal, and features that one seed finds and the next does not are worth as much as each
other; the idea of pooling is of "Unstable features, reproducible subspaces" (arXiv 2606.12138), the rule here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from ..activations.tokens import TokenSource
from .model import TopKSAE
from .stability import recurrence


@dataclass(frozen=True)
class Pool:
    """Features of several dictionaries, merged; the most supported first.

    Attributes
    ----------
    clusters : of each merged feature, {member: its feature}; no feature is in two of them
    support : float64 (n,), share of the members that have it
    energy : float64 (n,), mean of z^2 |W_dec|^2 of its features
    """

    clusters: list[dict[int, int]]
    support: np.ndarray
    energy: np.ndarray


def pool(members: Sequence[TopKSAE], source: TokenSource, cells: np.ndarray) -> Pool:
    """Pool the features of dictionaries of one size; those with decoder cosine and code correlation as in `stability` merge.

    Features are taken in the order of how many members have them, and of energy; each takes with it, of every member, the
    nearest feature that is the same. Others that are the same as it are dropped.

    Parameters
    ----------
    cells : training cells, whose tokens the codes are compared on
    """
    same: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    energy: dict[int, np.ndarray] = {}
    for a, b in combinations(range(len(members)), 2):
        found = recurrence(members[a], members[b], source, cells)
        energy |= {a: found.energy_a, b: found.energy_b}
        for (i, j), cosine in zip(found.pairs.tolist(), found.cosine.tolist(), strict=True):
            same.setdefault((a, i), []).append((cosine, b, j))
            same.setdefault((b, j), []).append((cosine, a, i))
    owners = {node: len({member for _, member, _ in others}) for node, others in same.items()}
    nodes = [(m, f) for m in energy for f in range(len(energy[m])) if energy[m][f] > 0]
    nodes.sort(key=lambda node: (-owners.get(node, 0), -energy[node[0]][node[1]]))
    taken: set[tuple[int, int]] = set()
    clusters = []
    for node in nodes:
        if node in taken:
            continue
        cluster = {node[0]: node[1]}
        taken.add(node)
        for _, member, feature in sorted(same.get(node, ()), reverse=True):
            if (member, feature) not in taken:
                cluster.setdefault(member, feature)
                taken.add((member, feature))
        clusters.append(cluster)
    means = np.array([np.mean([energy[m][f] for m, f in cluster.items()]) for cluster in clusters])
    support = np.array([len(cluster) / len(members) for cluster in clusters])
    order = np.lexsort((-means, -support))
    return Pool([clusters[i] for i in order], support[order], means[order])


def merged(members: Sequence[TopKSAE], clusters: Sequence[Mapping[int, int]]) -> TopKSAE:
    """Return an SAE with one feature a cluster: the mean of its members' encoder columns, biases and unit decoder rows.

    Decoder rows are of length 1 again; biases of the reconstruction are the members' mean. It is a start for training.
    """
    first = members[0]
    sae = TopKSAE(first.W_dec.shape[1], len(clusters), first.k, activation=first.activation, unit_norm=first.unit_norm)
    with torch.no_grad():
        for at, cluster in enumerate(clusters):
            rows = [(members[m], f, members[m].W_dec[f].norm()) for m, f in cluster.items()]
            sae.W_enc[:, at] = torch.stack([one.W_enc[:, f] * length for one, f, length in rows]).mean(0)
            # b_pre goes into the biases, as the files have it
            biases = [(one.b_enc[f] - one.b_pre @ one.W_enc[:, f]) * length for one, f, length in rows]
            sae.b_enc[at] = torch.stack(biases).mean()
            sae.W_dec[at] = F.normalize(torch.stack([one.W_dec[f] / length for one, f, length in rows]).mean(0), dim=0)
        sae.b_dec.copy_(torch.stack([one.b_dec + one.b_pre for one in members]).mean(0))
    return sae.requires_grad_(False)
