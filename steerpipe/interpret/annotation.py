"""The annotation of one dictionary: gene sets, terms, replication on other cells, and the false-positive rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from .activity import Activity
from .enrichment import Enrichment, enrich
from .programs import gene_sets, matched_random_sets, participation_ratio


@dataclass(frozen=True)
class Rules:
    """How gene sets are cut and tested.

    Attributes
    ----------
    q : below it a pair is significant; smallest, largest : genes of a feature's set; n_random : draws of the control
    """

    q: float = 0.05
    smallest: int = 10
    largest: int = 100
    n_random: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Library:
    """A gene-set library on the background: membership (S, N), and the sets' IC (S,)."""

    sets: sp.csr_matrix
    information: np.ndarray


@dataclass(frozen=True)
class Annotation:
    """What the features of one dictionary mean.

    Attributes
    ----------
    pr : float64 (F,) participation ratio, 0 for a feature that never fires
    sets : 0/1 (F, G) gene sets over the valid genes; tested is the same over the background's N genes
    pairs : every overlapping pair with p and q
    max_ic : float64 (F,) largest IC of a feature's significant terms, NaN where there is none
    label, label_q : (F,) the term chosen on one half of the cells (-1 none), and its q on the other half
    replication : share of the features labelled on one half whose label has q < rules.q on the other
    replication_all : the same with q over all pairs of the other half
    false_positive : share of features that matched random sets annotate, mean over draws
    """

    pr: np.ndarray
    sets: sp.csr_matrix
    tested: sp.csr_matrix
    pairs: Enrichment
    max_ic: np.ndarray
    label: np.ndarray
    label_q: np.ndarray
    replication: float
    replication_all: float
    false_positive: float

    @property
    def alive(self) -> np.ndarray:
        """bool (F,): features that fire."""
        return np.asarray(self.pr > 0)

    def annotated(self, q: float) -> np.ndarray:
        """bool (F,): features with a term below q."""
        return self.pairs.annotated(len(self.pr), q)

    def row(self, name: str, q: float) -> dict[str, float | str]:
        """Return the dictionary's row in the table of dictionaries; shares are of all its features."""
        quartiles = np.percentile(self.pr[self.alive], [25, 50, 75]) if self.alive.any() else np.full(3, np.nan)
        annotated = self.annotated(q)
        content = self.max_ic[annotated]
        return {
            "dictionary": name,
            "features": len(self.pr),
            "alive": int(self.alive.sum()),
            "annotated": float(annotated.mean()),
            "annotated_of_alive": float(annotated[self.alive].mean()) if self.alive.any() else np.nan,
            **dict(zip(("pr_q1", "pr_median", "pr_q3"), quartiles.tolist(), strict=True)),
            "max_ic_median": float(np.nanmedian(content)) if np.isfinite(content).any() else np.nan,
            "replication": self.replication,
            "replication_all_pairs": self.replication_all,
            "false_positive": self.false_positive,
        }


def annotate(activity: Activity, expressed: np.ndarray, expression: np.ndarray, library: Library, rules: Rules) -> Annotation:
    """Annotate every feature of a dictionary.

    A feature's set is cut from all valid genes, as the participation ratio is; what lies in the background is tested.

    Parameters
    ----------
    expressed : bool (G,), the background; expression : (G,) mean count, which the control is matched on
    """
    M = activity.matrix()
    pr = participation_ratio(M)
    columns = np.flatnonzero(expressed)
    sets = gene_sets(M, pr, smallest=rules.smallest, largest=rules.largest)
    tested = sp.csr_matrix(sets[:, columns])
    pairs = enrich(tested, library.sets)
    label, label_q, shares = _replicate(activity, columns, library, rules)
    rng = np.random.default_rng([rules.seed, 22])
    level = expression[columns]
    false = [
        enrich(matched_random_sets(tested, level, rng), library.sets).annotated(len(pr), rules.q).mean()
        for _ in range(rules.n_random)
    ]
    content = np.full(len(pr), -1.0)
    hits = pairs.significant(rules.q)
    np.maximum.at(content, hits.feature, np.nan_to_num(library.information[hits.term], nan=-1.0))
    max_ic = np.where(content >= 0, content, np.nan)
    return Annotation(pr, sets, tested, pairs, max_ic, label, label_q, *shares, false_positive=float(np.mean(false)))


def compare_ic(one: Annotation, other: Annotation) -> float:
    """Two-sided Mann-Whitney p of the maximum IC of two dictionaries' annotated features; NaN without any."""
    a, b = one.max_ic[np.isfinite(one.max_ic)], other.max_ic[np.isfinite(other.max_ic)]
    return float(stats.mannwhitneyu(a, b).pvalue) if len(a) and len(b) else float("nan")


def type_enrichment(activity: Activity) -> pd.DataFrame:
    """Return, per feature and cell type, how much more it fires there than elsewhere.

    Returns
    -------
    DataFrame with columns feature, type, mean (of the cells' mean |z|), log2_ratio (to the other cells), q: Welch's t on
    cells' mean |z|, one-sided, from streamed moments; Benjamini-Hochberg over all rows. Empty for a single type.
    """
    n = activity.cells[:, None].astype(np.float64)
    rows = {"feature": [], "type": [], "mean": [], "log2_ratio": [], "p": []}  # type: dict[str, list[np.ndarray]]
    if len(activity.types) < 2:
        return pd.DataFrame(columns=["feature", "type", "mean", "log2_ratio", "q"])
    features = np.arange(activity.type_mean.shape[1])
    sums, squares = activity.type_mean * n, activity.type_square * n
    for t, name in enumerate(activity.types):
        inside, outside = (
            _moments(sums[t], squares[t], n[t, 0]),
            _moments(sums.sum(0) - sums[t], squares.sum(0) - squares[t], n.sum() - n[t, 0]),
        )
        spread = np.sqrt(inside[1] + outside[1])
        difference = inside[0] - outside[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            df = (inside[1] + outside[1]) ** 2 / (inside[1] ** 2 / (inside[2] - 1) + outside[1] ** 2 / (outside[2] - 1))
            p = np.where(spread > 0, stats.t.sf(difference / spread, df), 1.0)
            ratio = np.log2(inside[0] / outside[0])
        values = (features, np.full(len(features), name, object), inside[0], ratio, np.nan_to_num(p, nan=1.0))
        for column, value in zip(rows, values, strict=True):
            rows[column].append(value)
    frame = pd.DataFrame({column: np.concatenate(values) for column, values in rows.items()})
    frame["q"] = stats.false_discovery_control(frame.pop("p"))
    return frame


def _moments(total: np.ndarray, square: np.ndarray, n: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(mean, variance of the mean, n) from sums."""
    mean = total / max(n, 1)
    variance = np.maximum(square / max(n, 1) - mean**2, 0) * n / max(n - 1, 1)
    return mean, variance / max(n, 1), max(n, 2)


def _replicate(
    activity: Activity, columns: np.ndarray, library: Library, rules: Rules
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Choose labels on one half of the cells and score them on the other: (label, its q, shares replicated)."""
    found = []
    for half in ("label", "score"):
        M = activity.matrix(half)
        sets = gene_sets(M, participation_ratio(M), smallest=rules.smallest, largest=rules.largest)
        found.append(enrich(sp.csr_matrix(sets[:, columns]), library.sets))
    F = activity.sums.shape[1]
    label, label_q = np.full(F, -1), np.full(F, np.nan)
    best = found[0].take(found[0].best(library.information)).significant(rules.q)
    label[best.feature] = best.term
    if not len(best.feature):
        return label, label_q, (float("nan"), float("nan"))
    key = found[1].feature.astype(np.int64) * library.sets.shape[0] + found[1].term
    wanted = best.feature.astype(np.int64) * library.sets.shape[0] + best.term
    at = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
    there = key[at] == wanted if len(key) else np.zeros(len(wanted), bool)
    p = np.where(there, found[1].p[at] if len(key) else 1.0, 1.0)
    label_q[best.feature] = stats.false_discovery_control(p)
    q_all = np.where(there, found[1].q[at] if len(key) else 1.0, 1.0)
    return label, label_q, (float((label_q[best.feature] < rules.q).mean()), float((q_all < rules.q).mean()))
