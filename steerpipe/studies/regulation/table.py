"""The table of a regulation study: a row a TF and arm, what it comes to, and what it says in words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import inference
from .arms import DEALT, KINDS, RANDOM, TF, Arm
from .inference import LEVEL
from .matching import BALANCED, Coexpression, imbalance, matched_controls

PEERS = {"low": 0.062, "high": 0.104, "sign": 0.564}
"""Another model's: share of TFs with evidence of regulation, in two readings, and accuracy of the sign."""


@dataclass(frozen=True)
class Rules:
    """How an arm is tested: draws of each null, controls matched to each target, and the q below which a TF counts."""

    n_permutations: int = 10_000
    n_controls: int = 5
    q: float = 0.05
    seed: int = 0


def tf_table(arms: Sequence[Arm], found: Coexpression, rows: dict[str, int], rules: Rules) -> pd.DataFrame:
    """Return the tests of every arm.

    Parameters
    ----------
    arms : of all TFs
    found : expression of the genes, and correlation of each TF (rows gives a TF's row) with them

    Returns
    -------
    DataFrame
        columns kind, draw, tf, features, targets, reversed, felt (share of the targets' F beyond rounding); forward, reverse
        (mean |F| and |R| over the reversed targets, log1p CP10K), asymmetry (their difference over their sum), asymmetry_lo,
        asymmetry_hi (95 % of its null), asymmetry_p, asymmetry_q; auroc (within sets matched in expression and correlation),
        auroc_lo, auroc_hi (95 % of its null), auroc_p, auroc_q, auroc_unmatched (against every other gene),
        expression_imbalance, correlation_imbalance (standardised mean differences that matching left), matched (targets that
        have controls), controls; signs, sign_agreement; beyond_coexpression (auroc_q below rules.q, and matching left both
        covariates balanced), regulates (that, and asymmetry_q below rules.q). q is over the TFs of one kind and draw
    """
    out = pd.DataFrame([_row(arm, found.expression, found.correlation[rows[arm.regulon.tf]], rules) for arm in arms])
    for test in ("asymmetry", "auroc"):
        q = out.groupby(["kind", "draw"])[f"{test}_p"].transform(lambda p: inference.adjusted(p.to_numpy()))
        out.insert(out.columns.get_loc(f"{test}_p") + 1, f"{test}_q", q)
    balanced = (out[["expression_imbalance", "correlation_imbalance"]].abs() < BALANCED).all(axis=1)
    out["beyond_coexpression"] = (out["auroc_q"] < rules.q) & balanced
    out["regulates"] = (out["asymmetry_q"] < rules.q) & out["beyond_coexpression"]
    order = {kind: i for i, kind in enumerate(KINDS)}
    out = out.sort_values(["draw", "auroc_p", "tf"])
    return out.sort_values("kind", key=lambda kind: kind.map(order), kind="stable", ignore_index=True)


def pair_table(arms: Sequence[Arm], found: Coexpression, rows: dict[str, int], genes: Sequence[str]) -> pd.DataFrame:
    """Return the targets of every arm.

    Returns
    -------
    DataFrame
        columns kind, draw, tf, target, known (sign in the network), found (sign of its change relative to the TF's own),
        correlation (with the TF), forward (|F|), reverse (|R|, NaN where it was not measured; both log1p CP10K)
    """
    frames = []
    for arm in arms:
        targets = arm.regulon.targets
        reverse = pd.Series(inference.sizes(arm.reverse), index=arm.reversed).reindex(targets).to_numpy()
        columns = {
            "kind": arm.kind, "draw": arm.draw, "tf": arm.regulon.tf, "target": [genes[i] for i in targets],
            "known": arm.regulon.signs, "found": inference.directions(arm.forward, arm.regulon.column)[targets],
            "correlation": found.correlation[rows[arm.regulon.tf], targets],
            "forward": inference.sizes(arm.forward)[targets], "reverse": reverse,
        }  # fmt: skip
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def summary(table: pd.DataFrame, pairs: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Return what each kind comes to.

    Returns
    -------
    DataFrame
        columns kind, draws, tested (TFs a draw), asymmetric, beyond_coexpression, regulates (shares of the TFs, each at q <
        rules.q), auroc, auroc_unmatched, asymmetry (means), sign_pairs, sign_agreement, sign_chance (known signs dealt anew
        within TFs), sign_p, coexpression_agreement (share of the pairs whose sign in the model is that of their correlation)
    """
    rows = []
    for kind, group in table.groupby("kind", sort=False):
        some = pairs[pairs["kind"] == kind]
        names = (some["tf"] + some["draw"].astype(str)).to_numpy()
        rng = np.random.default_rng([rules.seed, 43])
        sign = inference.sign_agreement(some["found"].to_numpy(), some["known"].to_numpy(), names, rules.n_permutations, rng)
        draws = group["draw"].nunique()
        shares = {
            "asymmetric": (group["asymmetry_q"] < rules.q).mean(),
            "beyond_coexpression": group["beyond_coexpression"].mean(),
            "regulates": group["regulates"].mean(),
        }
        means = {name: group[name].mean() for name in ("auroc", "auroc_unmatched", "asymmetry")}
        signs = {"sign_pairs": sign.n, "sign_agreement": sign.share, "sign_chance": sign.chance, "sign_p": sign.p}
        moved = some[some["found"] != 0]
        signs["coexpression_agreement"] = float((moved["found"] == np.sign(moved["correlation"])).mean())
        rows.append({"kind": kind, "draws": draws, "tested": len(group) / draws, **shares, **means, **signs})
    return pd.DataFrame(rows)


def conclusion(table: pd.DataFrame, summed: pd.DataFrame, rules: Rules) -> list[str]:
    """Return in words what the table says, a negative result as one."""
    own = summed.set_index("kind").loc[TF]
    named = table[(table["kind"] == TF) & table["regulates"]]["tf"].tolist()
    n = int(own["tested"])
    lines = [
        f"{len(named)} of {n} TFs ({own['regulates']:.1%}) move their targets more than these move them, and more than genes "
        f"matched in expression and co-expression, at q < {rules.q:g}" + (f": {', '.join(named)}." if named else "."),
        f"asymmetry alone: {own['asymmetric']:.1%} of the TFs; beyond co-expression alone: {own['beyond_coexpression']:.1%} "
        f"(mean AUROC {own['auroc']:.3f} against matched genes, {own['auroc_unmatched']:.3f} against all others).",
    ]
    for kind in (RANDOM, DEALT):
        for row in summed[summed["kind"] == kind].to_dict("records"):
            lines.append(
                f"{kind}: {row['asymmetric']:.1%} asymmetric, {row['beyond_coexpression']:.1%} beyond co-expression, "
                f"{row['regulates']:.1%} both."
            )
    if own["sign_pairs"]:
        within = own["sign_p"] > LEVEL
        lines.append(
            f"signs: {own['sign_agreement']:.1%} of {int(own['sign_pairs'])} pairs agree, chance {own['sign_chance']:.1%} "
            f"(p = {own['sign_p']:.3g}): " + ("no better than chance." if within else "better than chance.")
        )
        lines.append(
            f"co-expression: {own['coexpression_agreement']:.1%} of the targets move as their correlation with the TF says."
        )
    silent = int((table[table["kind"] == TF]["felt"] < 0.5).sum())
    if silent:
        lines.append(f"of {silent} TFs most effects on targets are within rounding: what they do cannot be told.")
    reached = summed.set_index("kind")["regulates"]
    if not named:
        lines.append("no evidence that the model encodes regulation here.")
    elif reached.get(DEALT, 0) >= own["regulates"]:
        lines.append("targets dealt anew reach as many: no evidence that the model encodes regulation here.")
    elif reached.get(RANDOM, 0) >= own["regulates"]:
        lines.append("random features at the TFs' tokens reach as many: what is special is the token, not the feature.")
    return lines


def _row(arm: Arm, expression: np.ndarray, correlation: np.ndarray, rules: Rules) -> dict[str, object]:
    tf, targets, G = arm.regulon.column, arm.regulon.targets, arm.forward.shape[2]
    rng = np.random.default_rng([rules.seed, 42, KINDS.index(arm.kind), arm.draw, zlib.crc32(arm.regulon.tf.encode())])
    size, reverse = inference.sizes(arm.forward), inference.sizes(arm.reverse)
    forward = size[arm.reversed]
    asymmetry = inference.sign_flip(forward - reverse, rules.n_permutations, rng)
    others = np.setdiff1d(np.arange(G), [*targets, *arm.known, tf])
    controls = matched_controls(expression, correlation, targets, others, rules.n_controls)
    auroc = inference.matched_auroc(size, targets, controls, rules.n_permutations, rng)
    found, known = inference.directions(arm.forward, tf)[targets], arm.regulon.signs
    signed = (found != 0) & (known != 0)
    total = float(forward.mean() + reverse.mean()) or 1.0
    return {
        "kind": arm.kind,
        "draw": arm.draw,
        "tf": arm.regulon.tf,
        "features": len(arm.forward),
        "targets": len(targets),
        "reversed": len(arm.reversed),
        "felt": float((arm.forward[:, :, targets] != 0).mean()),
        "forward": forward.mean(),
        "reverse": reverse.mean(),
        "asymmetry": asymmetry.value / total,
        "asymmetry_lo": asymmetry.lo / total,
        "asymmetry_hi": asymmetry.hi / total,
        "asymmetry_p": asymmetry.p,
        "auroc": auroc.value,
        "auroc_lo": auroc.lo,
        "auroc_hi": auroc.hi,
        "auroc_p": auroc.p,
        "auroc_unmatched": inference.auroc(size[targets], size[others]),
        "expression_imbalance": imbalance(expression, targets, controls),
        "correlation_imbalance": imbalance(correlation, targets, controls),
        "matched": int((controls >= 0).any(1).sum()),
        "controls": int((controls >= 0).sum()),
        "signs": int(signed.sum()),
        "sign_agreement": float((found[signed] == known[signed]).mean()) if signed.any() else float("nan"),
    }
