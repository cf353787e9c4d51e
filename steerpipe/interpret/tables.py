"""The tables of an annotation, as people and later stages read them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..data.genesets import GeneSets
from .activity import Activity
from .annotation import Annotation
from .programs import set_genes

SHOWN_TERMS = 5


def pair_table(found: Annotation, sets: GeneSets, background: Sequence[str], q: float, content: np.ndarray) -> pd.DataFrame:
    """Return one row a significant (feature, set) pair, and each feature's best pair where that is not significant.

    Returns
    -------
    DataFrame
        feature, term, id, term_index (row among the sets tested), overlap, feature_genes, set_genes (sizes in the
        background), fold (overlap over its expectation), p, q, ic, genes (that overlap)
    """
    best = found.pairs.best(content)
    keep = np.union1d(np.flatnonzero(found.pairs.q < q), best)
    pairs = found.pairs.take(keep)
    library = sets.matrix(background)
    names, n, K = np.array(background, object), np.diff(found.tested.indptr), np.diff(library.indptr)
    shared = [
        ", ".join(names[np.intersect1d(_row(found.tested, f), _row(library, t))])
        for f, t in zip(pairs.feature, pairs.term, strict=True)
    ]
    frame = pd.DataFrame(
        {
            "feature": pairs.feature.astype(np.int64),
            "term": np.array(sets.terms, object)[pairs.term],
            "id": np.array(sets.ids, object)[pairs.term],
            "term_index": pairs.term.astype(np.int64),
            "overlap": pairs.overlap.astype(np.int64),
            "feature_genes": n[pairs.feature].astype(np.int64),
            "set_genes": K[pairs.term].astype(np.int64),
            "fold": pairs.overlap * len(background) / (n[pairs.feature] * K[pairs.term]),
            "p": pairs.p,
            "q": pairs.q,
            "ic": content[pairs.term],
            "genes": shared,
        }
    )
    order = frame.assign(content=-frame["ic"].fillna(0)).sort_values(["feature", "p", "content", "term_index"]).index
    return frame.loc[order].reset_index(drop=True)


def feature_table(
    found: Annotation,
    activity: Activity,
    genes: Sequence[str],
    hits: pd.DataFrame,
    groups: tuple[np.ndarray, np.ndarray],
    types: pd.DataFrame,
    direct: pd.DataFrame | None,
    sets: GeneSets,
    q: float,
) -> pd.DataFrame:
    """Return one row a feature.

    Returns
    -------
    DataFrame
        feature; density (share of tokens it fires on); pr; n_genes; genes (its set, strongest first); label (its term of
        smallest p with q below the threshold, "" for none), label_id, label_p, label_q, label_ic; n_terms; max_ic; terms
        (the first five); direct_terms; half_label (chosen on half of the cells), half_q (its q on the other half);
        cell_types (q < threshold and more than elsewhere, strongest first), top_type, top_type_log2, top_type_q; component and
        module of the feature graph (`groups`), -1 outside
    """
    F = len(found.pr)
    M = activity.matrix()
    frame = pd.DataFrame({"feature": np.arange(F), "density": activity.density, "pr": found.pr})
    frame["n_genes"] = np.diff(found.sets.indptr).astype(np.int64)
    frame["genes"] = [", ".join(set_genes(found.sets, M, f, genes)) for f in range(F)]
    first = hits.drop_duplicates("feature").set_index("feature")
    for column in ("term", "id", "p", "q", "ic"):
        name = "label" if column == "term" else f"label_{column}"
        values = first[column].reindex(range(F))
        frame[name] = values.fillna("").to_numpy(object) if column in ("term", "id") else values.to_numpy(np.float64)
    counts = hits.groupby("feature").size()
    frame["n_terms"] = counts.reindex(range(F)).fillna(0).to_numpy(np.int64)
    frame["max_ic"] = found.max_ic
    frame["terms"] = _joined(hits, "term", F)
    frame["direct_terms"] = "" if direct is None else _joined(direct.sort_values(["feature", "p"], kind="stable"), "term", F)
    frame["half_label"] = ["" if i < 0 else sets.terms[i] for i in found.label]
    frame["half_q"] = found.label_q
    up = types[(types["q"] < q) & (types["log2_ratio"] > 0)].sort_values(["feature", "log2_ratio"], ascending=[True, False])
    frame["cell_types"] = _joined(up, "type", F)
    top = up.drop_duplicates("feature").set_index("feature").reindex(range(F))
    frame["top_type"] = top["type"].fillna("").to_numpy(object)
    frame["top_type_log2"] = top["log2_ratio"].to_numpy(np.float64)
    frame["top_type_q"] = top["q"].to_numpy(np.float64)
    frame["component"], frame["module"] = groups
    return frame


def best(features: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the n features of smallest q, as the log shows them."""
    some = features[features["label"] != ""].sort_values(["label_p", "feature"]).head(n)
    few = some["genes"].str.split(", ").str[:8].str.join(" ")
    return some[["feature", "label", "label_q", "pr", "top_type"]].assign(genes=few)


def search(features: pd.DataFrame, text: str | None) -> pd.DataFrame:
    """Return the features whose label, terms, genes or cell types have a text in them, best q first; all for none.

    A gene is found by its whole symbol, everything else by any part; case does not count.
    """
    found = features
    if text:
        wanted = text.lower()
        columns = ("label", "terms", "direct_terms", "half_label", "cell_types")
        hit = np.zeros(len(features), bool)
        for column in columns:
            hit |= features[column].str.lower().str.contains(wanted, regex=False).to_numpy(bool)
        hit |= np.array([wanted in genes.lower().split(", ") for genes in features["genes"]], bool)
        found = features[hit]
    return found.sort_values(["label_q", "label_p", "feature"], na_position="last")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of dictionaries with rounded numbers."""
    shares = ("annotated", "annotated_of_alive", "annotated_direct", "replication", "replication_all_pairs", "false_positive")
    out = table.copy()
    for name in out.columns:
        if name in shares:
            out[name] = out[name].map(lambda x: "" if pd.isna(x) else f"{x:.1%}")
        elif out[name].dtype.kind == "f":
            out[name] = out[name].map(lambda x: "" if pd.isna(x) else f"{x:.3g}")
    return out


def _joined(frame: pd.DataFrame, column: str, n: int) -> np.ndarray:
    """The first few values of each feature, one after the other."""
    some = frame.groupby("feature", sort=False).head(SHOWN_TERMS)
    texts = some.groupby("feature", sort=False)[column].agg("; ".join)
    return np.asarray(texts.reindex(range(n)).fillna("").to_numpy(object))


def _row(table: object, i: int) -> np.ndarray:
    return np.asarray(table.indices[table.indptr[i] : table.indptr[i + 1]])  # type: ignore[attr-defined]
