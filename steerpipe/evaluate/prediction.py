"""Scores of predicted perturbation profiles: the library cell-eval's, and the weighted error.

Profile scores (pearson_delta, mae, discrimination_score_l1) are read on mean changes, control to perturbed, so that each
target has its own control. Scores on DE genes need cells: the library's Wilcoxon tests compare perturbed with control cells.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import stats

from ..errors import SteerError

CONTROL = "control"
PROFILE = {"pearson_delta": True, "mae": False, "discrimination_score_l1": True}
"""The library's scores of profiles, and whether more is better."""
DE = ("overlap_at_N", "de_direction_match", "pr_auc")
"""Those of DE genes: more is better."""


def library() -> Any:
    """Return the package cell_eval.

    Raises
    ------
    SteerError
        It is not installed.
    """
    try:
        with _quiet():
            import cell_eval
            import cell_eval.metrics
    except ImportError as error:
        raise SteerError(
            "predictions are scored by cell-eval, which is not installed: pip install 'steerpipe[perturbation]'."
        ) from error
    return cell_eval


def profile_scores(predicted: np.ndarray, real: np.ndarray, names: Sequence[str], genes: Sequence[str]) -> pd.DataFrame:
    """Return the library's scores of mean changes, (T, G) each: a row a target, columns PROFILE.

    A prediction of no change has no correlation: NaN. Its discrimination score, and that of any prediction that is the same for
    all targets, is by the order of the targets' own sizes.
    """
    package = library()
    from cell_eval._types import PerturbationAnndataPair

    pair = PerturbationAnndataPair(
        real=_pseudobulk(real, names, genes), pred=_pseudobulk(predicted, names, genes), pert_col="target", control_pert=CONTROL
    )
    with _quiet():
        found = {name: package.metrics.metrics_registry.compute(name, pair) for name in PROFILE}
    return pd.DataFrame(found).reindex([str(name) for name in names])


def _pseudobulk(changes: np.ndarray, names: Sequence[str], genes: Sequence[str]) -> ad.AnnData:
    values = np.concatenate([np.zeros((1, changes.shape[1])), changes])
    obs = pd.DataFrame({"target": [CONTROL, *names]}, index=[str(i) for i in range(len(values))])
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=list(genes)))


def de_scores(
    predicted: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray], control: np.ndarray, genes: Sequence[str], seed: int
) -> pd.DataFrame:
    """Return the library's scores of DE genes of one control's targets: a row a target, columns DE.

    Parameters
    ----------
    predicted : {target: mean change (G,)}; predicted cells are control cells, drawn anew, that are moved by it, at least 0
    real : {target: measured log1p CP10K (n, G)}
    control : measured log1p CP10K (N, G)
    """
    rng = np.random.default_rng(seed)
    moved = {
        name: np.maximum(control[rng.integers(len(control), size=len(cells))] + predicted[name], 0)
        for name, cells in real.items()
    }
    package = library()
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        evaluator = package.MetricsEvaluator(
            _cells(moved, control, genes), _cells(real, control, genes), control_pert=CONTROL, pert_col="target", num_threads=1,
            outdir=folder, allow_discrete=True,
        )  # fmt: skip
        results, _ = evaluator.compute(profile="de", write_csv=False)
    frame = pd.DataFrame(results.to_dicts()).set_index("perturbation")
    return frame.reindex(columns=list(DE)).reindex(list(real)).astype(float)


def _cells(groups: Mapping[str, np.ndarray], control: np.ndarray, genes: Sequence[str]) -> ad.AnnData:
    names = np.repeat([CONTROL, *groups], [len(control), *(len(cells) for cells in groups.values())])
    values = np.concatenate([control, *groups.values()]).astype(np.float32)
    obs = pd.DataFrame({"target": pd.Categorical(names)}, index=[str(i) for i in range(len(values))])
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=list(genes)))


def gene_weights(control: np.ndarray, perturbed: np.ndarray) -> np.ndarray:
    """Return w_g = |t_g| / sum |t|, Welch's t between measured cells (N, G) and (M, G); genes without variance weigh 0.

    Mejia et al., arXiv 2506.22641: unweighted errors are those of the many genes that do not change, which a mean gets right.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        t = np.abs(stats.ttest_ind(perturbed, control, equal_var=False).statistic)
    t = np.where(np.isfinite(t), t, 0.0)
    return np.asarray(t / max(float(t.sum()), 1e-300))


def weighted_mse(predicted: np.ndarray, real: np.ndarray, weights: np.ndarray) -> float:
    """Return sum_g w_g (predicted_g - real_g)^2 of mean changes (G,)."""
    return float(weights @ (predicted - real) ** 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars, log lines and warnings."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
