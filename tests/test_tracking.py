"""Trackers, each with its own package where that is installed (`make tracking` installs Trackio and MLflow apart)."""

from __future__ import annotations

import pytest

from steerpipe.errors import SteerError
from steerpipe.tracking import finite_numbers, make_tracker

SETTINGS = {"sae.k": 8, "objective.name": "latent", "evaluate.markers": ["CD4"]}
ROWS = [{"tokens": 100 * i, "fvu": 1 / (1 + i)} for i in range(4)]


def tell(tracker, status="done"):
    tracker.start("fit 12-00", SETTINGS)
    tracker.numbers({"fit/ratio": 0.05, "fit/n_0.05": 7.0})
    tracker.curve(ROWS)
    tracker.finish(status)


def test_the_run_folder_needs_no_tracker():
    assert make_tracker("jsonl", "p") is None
    with pytest.raises(SteerError, match="unknown tracker 'wandbb'; did you mean 'wandb'"):
        make_tracker("wandbb", "p")
    assert finite_numbers({"a": 1, "b": float("nan"), "c": "x", "d": True, "e": 0.5}) == {"a": 1.0, "e": 0.5}


@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(SteerError, match=f"pip install {name}, or use tracker=jsonl"):
        make_tracker(name, "p")


def test_mlflow_file_store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed: make tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = f"file://{tmp_path}/mlruns"
    for status in ("done", "failed"):
        tell(make_tracker("mlflow", "steer-test", uri), status)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("steer-test")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]
    run = runs[0]
    assert run.data.params["sae.k"] == "8"
    assert run.data.metrics["fit/ratio"] == 0.05
    history = client.get_metric_history(run.info.run_id, "curve/fvu")
    assert [(m.step, m.value) for m in history] == [(row["tokens"], row["fvu"]) for row in ROWS]


def test_trackio_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pytest.importorskip("trackio", reason="Trackio is not installed: make tracking")
    import sqlite3

    tell(make_tracker("trackio", "steer-test"))
    (file,) = tmp_path.rglob("steer-test.db")
    with sqlite3.connect(file) as database:
        logged = " ".join(str(row) for row in database.execute("select * from metrics"))
    assert "fit/ratio" in logged
    assert "curve/fvu" in logged
    assert "0.25" in logged
