"""Is a pretrained model any good? Masked genes against simple predictors, and cell identity, on data that it never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..models.aido_cell import AidoCell
from ..models.preprocess import MASK, model_input
from ..progress import track
from .thinning import log_cp10k

RIDGE = (100.0, 1000.0, 10_000.0)
NEIGHBOURS = (10, 30, 100)
FOLDS = 5
"""Of the cross-validated probes; each group needs as many cells."""


@dataclass(frozen=True)
class Profiles:
    """Counts over a model's genes (N, G) and the positions of the genes that the dataset has."""

    counts: np.ndarray
    valid: np.ndarray

    @property
    def log(self) -> np.ndarray:
        """float32 (N, G_valid), log1p CP10K over the valid genes."""
        return log_cp10k(self.counts[:, self.valid])


def masked_table(
    model: AidoCell, data: Profiles, train: np.ndarray, *, n_masks: int = 3, share: float = 0.2, seed: int = 0
) -> pd.DataFrame:
    """Score predictions of masked genes: the model's, and those of predictors fitted on the model's training cells.

    The predictors see the training cells thinned to the data's median depth, so that depth is no handicap; ridge's
    penalty and kNN's k are chosen on a tenth of the training cells.

    Parameters
    ----------
    data : cells that the model never saw
    train : uint16 (M, G), the model's training cells
    n_masks, share : random gene masks, and the share of valid genes in each

    Returns
    -------
    DataFrame, one row a predictor: mse (log1p CP10K), mse_over_mean, pearson (mean over genes of r across cells);
    behind_model, how much larger its error is than the model's, over the gene mean's, and behind_model_ci, half of that
    difference's 95 % interval over cells (paired, for these masks)
    """
    rng = np.random.default_rng(seed)
    fold = data.counts[:, data.valid].sum(1)
    rate = min(1.0, float(np.median(fold) / np.median(train[:, data.valid].sum(1))))
    thin = rng.binomial(train[:, data.valid].astype(np.int64), rate)
    thin = thin[thin.sum(1) > 0]
    known = log_cp10k(thin)
    truth = data.log
    rows, behind = [], []
    for _ in range(n_masks):
        masked = np.zeros(len(data.valid), bool)
        masked[rng.permutation(len(masked))[: round(share * len(masked))]] = True
        predictions = {
            "model": _model_masked(model, data, masked),
            "gene mean": np.broadcast_to(known[:, masked].mean(0), (len(truth), masked.sum())),
            "ridge": _best_ridge(known, masked, truth, rng),
            "kNN": _best_knn(known, masked, truth, rng),
        }
        seen = truth[:, masked].std(0) > 0
        errors = {name: np.square(y - truth[:, masked]).mean(1) for name, y in predictions.items()}  # (N,) each
        base = float(errors["gene mean"].mean())
        for name, y in predictions.items():
            mse = float(errors[name].mean())
            r = _correlations(y[:, seen], truth[:, masked][:, seen])
            rows.append({"predictor": name, "mse": mse, "mse_over_mean": mse / base, "pearson": float(r.mean())})
        behind.append(pd.DataFrame({name: (error - errors["model"]) / base for name, error in errors.items()}))
    table = pd.DataFrame(rows).groupby("predictor", sort=False).mean()
    by_cell = sum(behind) / n_masks
    table["behind_model"] = by_cell.mean()
    table["behind_model_ci"] = 1.96 * by_cell.sem()
    return table.reset_index()


def identity_table(
    model: AidoCell,
    data: Profiles,
    positive: np.ndarray,
    layer: int,
    genes: tuple[str, ...] = ("CD8A", "CD8B"),
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Score how well two groups of cells are told apart (AUC): by marker genes, raw and predicted, and by probes.

    Parameters
    ----------
    positive : bool (N,), the group that should express `genes`
    layer : steering layer, whose mean stream over valid genes is probed

    Returns
    -------
    DataFrame with columns reader, auc; probes are logistic regressions, 5-fold cross-validated
    """
    expression, stream = _reconstruct(model, data, layer)
    raw = data.log
    names = [model.genes[i] for i in data.valid]
    rows = []
    for gene in (g for g in genes if g in names):
        column = names.index(gene)
        rows.append({"reader": f"raw {gene}", "auc": float(roc_auc_score(positive, raw[:, column]))})
        rows.append({"reader": f"predicted {gene}", "auc": float(roc_auc_score(positive, expression[:, column]))})
    n_pcs = min(50, raw.shape[1], 4 * len(raw) // 5 - 1)  # a fold is fitted on four fifths of the cells
    pcs = PCA(n_pcs, random_state=seed)
    probes = {"probe: mean stream": (stream, None), "probe: raw log counts": (raw, None), f"probe: {n_pcs} PCs": (raw, pcs)}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for name, (X, first) in probes.items():
        steps = [first] if first is not None else []
        probe = make_pipeline(*steps, StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        score = cross_val_predict(probe, X, positive, cv=folds, method="decision_function")
        rows.append({"reader": name, "auc": float(roc_auc_score(positive, score))})
    return pd.DataFrame(rows)


def _model_masked(model: AidoCell, data: Profiles, masked: np.ndarray) -> np.ndarray:
    """The model's prediction at the masked genes, asked for the input's own depth."""
    hidden = torch.from_numpy(data.valid[masked])
    out = []
    for start in track(range(0, len(data.counts), 8), "masked genes", -(-len(data.counts) // 8)):
        values = model_input(data.counts[start : start + 8], model.arch.depth, fold=1.0)
        values[:, hidden] = MASK
        with torch.no_grad():
            y = model.forward_from(-1, model.embed(values), hidden).expression
        assert y is not None
        out.append(y.numpy())
    return np.concatenate(out)


def _reconstruct(model: AidoCell, data: Profiles, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted expression (N, G_valid) and mean stream (N, D) of unmasked cells."""
    read = torch.from_numpy(data.valid)
    expression, mean = [], []
    for start in track(range(0, len(data.counts), 8), "reconstruction", -(-len(data.counts) // 8)):
        with torch.no_grad():
            stream = model.stream(model_input(data.counts[start : start + 8], model.arch.depth), layer)
            y = model.forward_from(layer, stream, read).expression
        assert y is not None
        expression.append(y.numpy())
        mean.append(stream[:, read].mean(1).numpy())
    return np.concatenate(expression), np.concatenate(mean)


def _best_ridge(known: np.ndarray, masked: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    X, Y, order = known[:, ~masked], known[:, masked], rng.permutation(len(known))
    held, fit = order[: len(order) // 10], order[len(order) // 10 :]

    def error(alpha: float) -> float:
        return float(np.square(Ridge(alpha=alpha).fit(X[fit], Y[fit]).predict(X[held]) - Y[held]).mean())

    return np.asarray(Ridge(alpha=min(RIDGE, key=error)).fit(X, Y).predict(truth[:, ~masked]))


def _best_knn(known: np.ndarray, masked: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n_pcs = min(50, len(known) - 1, int((~masked).sum()))
    pcs = PCA(n_pcs, svd_solver="randomized", random_state=0).fit(known[:, ~masked])
    X, Y, order = pcs.transform(known[:, ~masked]), known[:, masked], rng.permutation(len(known))
    held, fit = order[: len(order) // 10], order[len(order) // 10 :]
    counts = [k for k in NEIGHBOURS if k <= len(fit)] or [len(fit)]

    def neighbours(base: np.ndarray, query: np.ndarray) -> np.ndarray:
        return np.asarray(NearestNeighbors(n_neighbors=max(counts)).fit(base).kneighbors(query, return_distance=False))

    near = neighbours(X[fit], X[held])
    errors = {k: float(np.square(Y[fit][near[:, :k]].mean(1) - Y[held]).mean()) for k in counts}
    best = min(errors, key=errors.__getitem__)
    return np.stack([Y[row[:best]].mean(0) for row in neighbours(X, pcs.transform(truth[:, ~masked]))])


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson r of each column pair; a constant prediction counts as 0."""
    a, b = a - a.mean(0), b - b.mean(0)
    norm = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    return np.where(norm > 1e-9, (a * b).sum(0) / np.maximum(norm, 1e-9), 0.0)
