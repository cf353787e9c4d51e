"""The arms of a TF: its own features and targets, random features, and targets dealt anew; each is tested the same way."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ...data.regulons import Regulon
from ...pipeline.artefact import save_arrays
from ...sae.model import Codes, TopKSAE
from .effects import SteeredCells, codes_of, forward_effect, instead_of, reverse_effect

TF, RANDOM, DEALT = "TF", "random features", "names dealt anew"
KINDS = (TF, RANDOM, DEALT)


@dataclass(frozen=True)
class Arm:
    """What steering at a TF's token and at its targets' tokens did.

    Attributes
    ----------
    kind : TF, random features (other decoder rows at the same length), or names dealt anew (other TFs' targets)
    draw : which of the control's draws
    regulon : the TF, and the targets and signs of this arm
    reversed : int64 (m,), columns of those of the targets whose R was measured
    known : int64, the TF's targets in the network: no controls of this arm
    forward, reverse : float32 (F, A, G) and (F, A, m), effects of each feature at each alpha, log1p CP10K
    """

    kind: str
    draw: int
    regulon: Regulon
    reversed: np.ndarray
    known: np.ndarray
    forward: np.ndarray
    reverse: np.ndarray


@dataclass(frozen=True)
class Design:
    """What is steered, and how often.

    Attributes
    ----------
    alphas : what a feature's code is multiplied by; 1 is no change
    own_code : in R multiply the code at the target's own token, in place of that at the TF's
    max_targets : targets whose R is measured at the most, drawn at random
    n_random, n_dealt : draws of the two controls
    """

    alphas: Sequence[float] = (-2.0, 2.0, 5.0)
    own_code: bool = False
    max_targets: int = 30
    n_random: int = 1
    n_dealt: int = 1
    seed: int = 0

    def rng(self, tf: str) -> np.random.Generator:
        """Return the TF's own generator: its draws do not depend on which other TFs are asked for."""
        return np.random.default_rng([self.seed, 41, zlib.crc32(tf.encode())])


def choose_features(M: np.ndarray, sets: np.ndarray, tf: int, n: int) -> np.ndarray:
    """Return the features whose gene set has a TF, int64: the n of largest mean |code| at its token, strongest first.

    Parameters
    ----------
    M : (F, G) mean |code| at each gene; sets : bool (F,), whether the TF is in a feature's gene set
    """
    members = np.flatnonzero(sets)
    return np.asarray(members[np.argsort(-M[members, tf], kind="stable")][:n], np.int64)


def deal(regulons: Sequence[Regulon], regulon: Regulon, rng: np.random.Generator) -> Regulon:
    """Return the regulon of a TF whose edges are drawn among the other TFs' edges: genes that are regulated, but not by it.

    Genes that many TFs regulate stay frequent. Its own targets and itself are left out; there are as many as it has, or fewer
    where the others have not so many.
    """
    others = [one for one in regulons if one.column != regulon.column]
    targets = np.concatenate([np.zeros(0, np.int64), *(one.targets for one in others)])
    signs = np.concatenate([np.zeros(0, np.int8), *(one.signs for one in others)])
    order = rng.permutation(np.flatnonzero(~np.isin(targets, [*regulon.targets, regulon.column])))
    first = np.unique(targets[order], return_index=True)[1]
    edges = order[np.sort(first)[: len(regulon.targets)]]  # the first of each gene, in the order of the draw
    edges = edges[np.argsort(targets[edges])]
    return Regulon(regulon.tf, regulon.column, targets[edges], signs[edges])


def some_targets(regulon: Regulon, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most n of a regulon's targets, int64, ascending."""
    return np.sort(rng.choice(regulon.targets, min(n, len(regulon.targets)), replace=False))


def passes(regulon: Regulon, dealt: int, firing: int, design: Design) -> tuple[int, int]:
    """Return the passes of one cell that a TF costs: those that read every gene, and those that read one.

    Parameters
    ----------
    dealt : targets of each dealt regulon
    firing : cells where a feature fires at the TF's token, summed over its features
    """
    trials, m = firing * sum(alpha != 1 for alpha in design.alphas), min(design.max_targets, len(regulon.targets))
    return trials * (1 + design.n_random), trials * (
        m * (1 + design.n_random) + min(design.max_targets, dealt) * design.n_dealt
    )


def measure(
    cells: SteeredCells,
    codes: Codes,
    sae: TopKSAE,
    regulon: Regulon,
    features: np.ndarray,
    regulons: Sequence[Regulon],
    others: np.ndarray,
    design: Design,
) -> list[Arm]:
    """Steer a TF's features at its token and at its targets', and the controls' likewise.

    Parameters
    ----------
    codes : of every valid gene's token (see gene_codes)
    features : int64 (F,), the TF's features; those that fire at its token in no cell are left out
    regulons : the network that dealt targets come from
    others : int64, features that random ones are drawn from

    Returns
    -------
    list of Arm
        none where no feature fires at the TF's token in these cells
    """
    rng, tf = design.rng(regulon.tf), regulon.column
    at_tf = {int(f): codes_of(codes, int(f), np.array([tf]))[:, 0] for f in features}
    at_tf = {f: code for f, code in at_tf.items() if code.any()}
    reversed_ = some_targets(regulon, design.max_targets, rng)
    dealt = [deal(regulons, regulon, rng) for _ in range(design.n_dealt)]
    asked = [some_targets(one, design.max_targets, rng) for one in dealt]
    drawn = [rng.choice(others, len(at_tf), replace=len(others) < len(at_tf)) for _ in range(design.n_random)]
    if not at_tf:
        return []

    own_rows = [sae.W_dec[f].detach() for f in at_tf]

    def forward(rows: list[Tensor]) -> np.ndarray:
        pairs = zip(at_tf.values(), rows, strict=True)
        return np.stack([forward_effect(cells, tf, code, row, design.alphas) for code, row in pairs])

    def reverse(targets: np.ndarray, rows: list[Tensor]) -> np.ndarray:
        found = []
        for (f, code), row in zip(at_tf.items(), rows, strict=True):
            own = codes_of(codes, f, targets) if design.own_code else None
            found.append(reverse_effect(cells, tf, targets, code, row, design.alphas, own))
        return np.stack(found)

    known = regulon.targets
    arms = [Arm(TF, 0, regulon, reversed_, known, forward(own_rows), reverse(reversed_, own_rows))]
    for i, some in enumerate(drawn):
        rows = [instead_of(sae, f, int(other)) for f, other in zip(at_tf, some, strict=True)]
        arms.append(Arm(RANDOM, i, regulon, reversed_, known, forward(rows), reverse(reversed_, rows)))
    for i, (one, targets) in enumerate(zip(dealt, asked, strict=True)):
        if len(targets):  # the forward effects are the TF's own: they were read at every gene
            arms.append(Arm(DEALT, i, one, targets, known, arms[0].forward, reverse(targets, own_rows)))
    return arms


def save(arms: Sequence[Arm], file: Path) -> None:
    """Write the arms of one TF as npz."""
    arrays: dict[str, np.ndarray] = {"n": np.array(len(arms))}
    for i, arm in enumerate(arms):
        arrays |= {f"{i}_kind": np.array(arm.kind), f"{i}_draw": np.array(arm.draw), f"{i}_tf": np.array(arm.regulon.tf)}
        arrays |= {f"{i}_column": np.array(arm.regulon.column), f"{i}_targets": arm.regulon.targets}
        arrays |= {f"{i}_signs": arm.regulon.signs, f"{i}_reversed": arm.reversed, f"{i}_known": arm.known}
        arrays[f"{i}_reverse"] = arm.reverse
        if arm.kind != DEALT:  # its forward effects are the TF's own
            arrays[f"{i}_forward"] = arm.forward
    save_arrays(file, arrays)


def load(file: Path) -> list[Arm]:
    """Read what `save` wrote."""
    arms: list[Arm] = []
    with np.load(file) as arrays:
        for i in range(int(arrays["n"])):
            names = ("kind", "draw", "tf", "column", "targets", "signs", "reversed", "known", "reverse")
            kind, draw, tf, column, targets, signs, reversed_, known, reverse = (arrays[f"{i}_{name}"] for name in names)
            forward = arms[0].forward if str(kind) == DEALT else arrays[f"{i}_forward"]
            regulon = Regulon(str(tf), int(column), targets, signs)
            arms.append(Arm(str(kind), int(draw), regulon, reversed_, known, forward, reverse))
    return arms
