"""`steer adapter`: networks from a state (adapter=inverse) or a perturbation's name (adapter=perturbation) to a recipe."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from ...evaluate.prediction import library
from ...pipeline.checkpoint import require_head
from ...pipeline.experiment import prepare
from ...pipeline.pipeline import Pipeline
from ...pipeline.scoring import require_multiply
from ...plot.provenance import model_phrase, sae_phrase
from ...plot.style import COLOURS, GREY
from ...progress import track
from ..findings import Findings
from ..labelled import labels_finder, require_label
from . import figure, inverse_table, prediction_table, targets
from .genes import check_sources
from .inverse import find_pairs, measure, milliseconds, train_fold
from .page import predictions_page
from .predict import FITTED, Bench, Predicted, predict, strongest
from .training import State, check_objective

log = logging.getLogger(__name__)
SHOWN = 8
"""Features of a recipe that are listed."""


def study(pipeline: Pipeline) -> Findings:
    """Train, score, print and draw."""
    config = pipeline.config
    require_head(config, ["expression"], "model=mini, or a checkpoint that has one")
    require_multiply(config, "adapter")
    check_objective(config)
    return _inverse(pipeline) if config.adapter.task == "inverse" else _prediction(pipeline)


def _inverse(pipeline: Pipeline) -> Findings:
    config, found = pipeline.config, Findings()
    require_label(config, "adapter")
    experiment = prepare(pipeline, find=labels_finder(config, "adapter"))
    pairs, folds, fit = find_pairs(experiment)
    state = State(experiment)
    log.info("%d labels in %d folds, %d pairs: %s", len(fit), len(set(folds.values())), len(pairs),
             ", ".join(f"{name} ({folds[name]})" for name in fit))  # fmt: skip
    trained = {
        n: train_fold(experiment, state, n, folds, fit)
        for n in track(sorted(set(folds.values())), "folds", len(set(folds.values())))
    }
    rng = np.random.default_rng([config.seed, 103])
    through = set(rng.permutation(len(pairs))[: config.adapter.scored_pairs])
    frames = [
        measure(experiment, pair, trained[pair.fold], through_model=i in through).assign(pair=pair.name, fold=pair.fold)
        for i, pair in enumerate(track(pairs, "pairs", len(pairs)))
    ]
    rows = inverse_table.with_q(pd.concat(frames, ignore_index=True))
    times = milliseconds(experiment, pairs[: 3 * config.adapter.scored_pairs], trained)
    table, head = inverse_table.summary(rows, times), inverse_table.headline(rows)
    said = inverse_table.lines(table)
    for name, frame in {"pairs": rows, "summary": table, "headline": head}.items():
        found.table(name, frame)
    log.info("targets that no adapter was trained towards, medians over pairs:\n%s", table.round(4).to_string(index=False))
    log.info("headline scores, %d pairs through the model, medians:\n%s", len(through), head.round(3).to_string(index=False))
    _conclude(found, said)
    numbers = ("excess", "overlap", "features", "gap", "beyond")
    found.metrics({f"{row.arm}/{name}": float(getattr(row, name)) for row in table.itertuples() for name in numbers})
    text = f"{model_phrase(config)} · layer {config.layer.index} · {sae_phrase(config)} · {len(pairs)} pairs, {len(fit)} labels"
    found.figure("inverse", figure.inverse(rows, text), rows)
    return found


def _prediction(pipeline: Pipeline) -> Findings:
    config, found = pipeline.config, Findings()
    targets.check(config)
    check_sources(config)
    library()
    experiment = prepare(pipeline, find=targets.finder(config))
    some = targets.find_targets(experiment)
    parts = targets.left_out(some, config.adapter.split)
    bench = Bench(experiment, some)
    log.info("%d targets in %d folds, by %s; what is known of a gene: %s", len(some), len(parts), config.adapter.split,
             "; ".join(bench.features[1]) or "nothing")  # fmt: skip
    predicted = predict(bench, parts)
    scores = prediction_table.all_scores(bench, predicted, config.seed)
    null = prediction_table.null_scores(bench, predicted)
    table = prediction_table.summary(scores, null)
    said = prediction_table.lines(table, scores, config.adapter.split)
    features = _features(bench, predicted)
    genes = _genes(bench, predicted)
    tables = {"summary": table, "scores": scores, "null": null, "features": features, "genes": genes}
    for name, frame in tables.items():
        found.table(name, frame)
    log.info("left out, medians over targets:\n%s", prediction_table.readable(table).to_string(index=False))
    _conclude(found, said)
    found.metrics(
        {f"{row.arm}/{name}": float(getattr(row, name)) for row in table.itertuples() for name in ("pearson_delta", "wmse")}
    )
    network = config.adapter.networks[-1]
    own = (
        scores[scores["arm"] == network]
        .sort_values("pearson_delta", ascending=False, na_position="last")["perturbation"]
        .tolist()
    )
    shown = list(dict.fromkeys([own[0], own[-1]]))
    order = scores.set_index("arm").loc[table["arm"]].reset_index()
    where = f"{model_phrase(config)} · layer {config.layer.index} · {sae_phrase(config)}"
    text = f"{where} · b, c: {network} · left out by {config.adapter.split}"
    colours = {
        arm: figure.SHADES.get(arm, GREY if arm not in prediction_table.KNOWING else COLOURS["expression"])
        for arm in table["arm"]
    }
    page = predictions_page(
        scores, features, genes, config.adapter.networks, said, f"{where} · left out by {config.adapter.split}"
    )
    found.file("perturbations.html", page)
    drawn = order[["arm", "perturbation", "pearson_delta"]]
    mine = features[features["arm"] == network]
    found.figure("prediction", figure.prediction(drawn, genes[genes["arm"] == network], mine, shown, colours, text), drawn)
    return found


def _conclude(found: Findings, said: list[str]) -> None:
    found.text("conclusion", said)
    log.info("%s", "\n".join(said))


def _features(bench: Bench, predicted: Predicted) -> pd.DataFrame:
    """Each recipe's features, strongest first, what they are called, and what leaving one out does to the prediction."""
    labels = bench.experiment.annotation.features.set_index("feature")
    rows = []
    for arm, thetas in predicted.thetas.items():
        for i in np.flatnonzero(np.isfinite(thetas).all(1)).tolist():
            whole = _correlation(predicted.changes[arm][i], bench.real[i], bench.among)
            without = predicted.dropped.get(arm, {}).get(i, {})
            for feature in strongest(bench, bench.targets[i], thetas[i])[:SHOWN]:
                left = without.get(int(feature))
                lost = np.nan if left is None else whole - _correlation(left, bench.real[i], bench.among)
                rows.append({"arm": arm, "perturbation": bench.targets[i].name, "feature": int(feature),
                             "theta": float(thetas[i][feature]), "label": labels.loc[feature, "label"],
                             "genes": ", ".join(labels.loc[feature, "genes"].split(", ")[:8]), "lost": lost})  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "perturbation", "feature", "theta", "label", "genes", "lost"])


def _correlation(predicted: np.ndarray, real: np.ndarray, among: np.ndarray) -> float:
    """Pearson's r over the expressed genes; 0 for a prediction of no change."""
    if predicted[among].std() == 0 or real[among].std() == 0:
        return 0.0
    return float(np.corrcoef(predicted[among], real[among])[0, 1])


def _genes(bench: Bench, predicted: Predicted) -> pd.DataFrame:
    """Predicted and real change of every expressed gene, of the networks and of the fitted recipe."""
    at = np.flatnonzero(bench.among)
    names = [bench.experiment.genes[i] for i in at]
    frames = [
        pd.DataFrame(
            {"arm": arm, "perturbation": one.name, "gene": names, "predicted": changes[i][at], "real": bench.real[i][at]}
        )
        for arm, changes in predicted.changes.items()
        if arm in predicted.thetas or arm == FITTED
        for i, one in enumerate(bench.targets)
        if np.isfinite(changes[i]).all()
    ]
    return pd.concat(frames, ignore_index=True)
