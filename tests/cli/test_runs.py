"""What becomes of runs: list, filter, sort, show, compare, repeat, clean."""

from __future__ import annotations

import json
import shutil

import pytest

from steerpipe.cli.again import config_problems, pinned, removable
from steerpipe.cli.app import main
from steerpipe.cli.runs import resolve_sweep
from steerpipe.errors import SteerError
from steerpipe.past import find_runs, resolve_run
from steerpipe.store import PINS

from .conftest import small


@pytest.fixture(scope="module")
def fitted(steer, workdir):
    """A sweep of three fits and one fit on its own."""
    steer(*small("fit"), "-m", "lambda=ratio", "lambda.value=0.5,0.1,0.02")
    return steer(*small("fit"), "lambda=ratio", "lambda.value=0.3", "seed=0").stdout.strip().splitlines()[-1]


@pytest.fixture
def ask(workdir, monkeypatch, capsys):
    """Call a command that runs nothing in this process; return (exit code, output, errors)."""
    monkeypatch.chdir(workdir)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words, cwd=workdir):
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            main(list(words))
        return end.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def asked(ask):
    return lambda *words: json.loads(ask(*words, "--json")[1])


def test_runs_are_filtered_and_sorted_by_any_metric(ask, asked, fitted):
    every = asked("runs")
    assert len(every) == 4
    assert {run["status"] for run in every} == {"done"}
    few = asked("runs", "stage=fit", "fit/n_1e-06<5", "lambda.value>=0.3", "--sort", "fit/n_1e-06", "--reverse")
    counts = [run["metrics"]["fit/n_1e-06"] for run in few]
    assert counts == sorted(counts, reverse=True)
    assert len(few) == sum(r["metrics"]["fit/ratio"] >= 0.29 and r["metrics"]["fit/n_1e-06"] < 5 for r in every)
    assert [run["lambda.value"] for run in asked("runs", "--sort", "lambda.value")] == [0.02, 0.1, 0.3, 0.5]
    text = ask("runs", "--sort", "fit/ratio", "--columns", "seed")[1]
    assert "fit/ratio" in text
    assert "lambda.value=0.02" in text
    assert "unknown --sort 'fit/ration'; did you mean 'fit/ratio'?" in ask("runs", "--sort", "fit/ration")[2]
    assert ask("runs", "fit/ratio")[0] == 2


def test_names_by_last_prefix_and_path(workdir, fitted):
    outputs = workdir / "outputs"
    last = resolve_run("last", outputs)
    assert str(last.path) == str(workdir / fitted)
    assert resolve_run(str(workdir / fitted), outputs).name == last.name
    assert resolve_run(last.name, outputs).name == last.name
    assert resolve_run(last.path.name[:12], outputs).name == last.name
    with pytest.raises(SteerError, match=r"names 4 runs in .*; see: steer runs"):
        resolve_run("fit/", outputs)
    name, runs = resolve_sweep("last", outputs)
    assert [run.path.name for run in runs] == ["0", "1", "2"]
    assert resolve_sweep(name[:8], outputs)[0] == name[:8]


def test_diff_shows_settings_and_numbers(ask, asked, workdir, fitted):
    sweep, _ = resolve_sweep("last", workdir / "outputs")
    found = asked("diff", f"{sweep}/0", "last")
    assert found["config"]["lambda.value"] == [0.5, 0.3]
    assert found["metrics"]["fit/ratio"] == [pytest.approx(0.5), pytest.approx(0.3)]
    text = ask("diff", f"{sweep}/0", "last")[1]
    assert "config: 1 differ" in text
    assert "-0.2" in text
    assert "config: equal" in ask("diff", "last", "last")[1]


def test_a_sweep_as_one_table(ask, asked, fitted):
    rows = asked("sweep-table", "--metrics", "fit/n_*", "--sort", "lambda.value")
    assert [row["lambda.value"] for row in rows] == [0.02, 0.1, 0.5]
    assert all(
        set(row) == {"job", "lambda.value", "status", "fit/n_1e-06", "fit/n_0.05", "fit/n_0.1", "fit/n_0.3"} for row in rows
    )
    assert rows[0]["fit/n_1e-06"] > rows[-1]["fit/n_1e-06"]
    assert "no sweeps in nowhere" in ask("sweep-table", "--outputs", "nowhere")[2]


def test_rerun_repeats_a_job_of_a_sweep_with_its_settings(steer, workdir, fitted):
    sweep, runs = resolve_sweep("last", workdir / "outputs")
    done = steer("rerun", f"{sweep}/1")
    folder = workdir / done.stdout.strip().splitlines()[-1]
    again = json.loads((folder / "manifest.json").read_text())
    assert again["config"] == runs[1].manifest["config"]
    assert all(artefact["reused"] for artefact in again["artefacts"])
    assert json.loads((folder / "metrics.json").read_text()) == runs[1].metrics
    shutil.rmtree(folder)


def test_rerun_brings_back_old_defaults_and_refuses_what_it_does_not_know(workdir, fitted):
    manifest = resolve_run("last", workdir / "outputs").manifest
    assert pinned(manifest) == []
    older = json.loads(json.dumps(manifest))
    older["config"]["sae"]["k"] = 5
    older["config"]["evaluate"]["markers"] = ["CD4"]
    assert pinned(older) == ["sae.k=5", 'evaluate.markers=["CD4"]']
    older["config"]["sae"]["warmth"] = 1
    older["versions"]["steerpipe"] = "0.0.1"
    with pytest.raises(SteerError, match=r"steerpipe 0\.0\.1, whose sae\.warmth this version does not have"):
        pinned(older)


def test_clean_says_asks_and_keeps_what_runs_stand_on(ask, workdir, tmp_path, fitted, monkeypatch):
    outputs = tmp_path / "outputs"
    shutil.copytree(workdir / "outputs", outputs)
    assert removable(outputs) == []
    assert "0 folders" in ask("clean", "--unused", cwd=tmp_path)[1]
    assert ask("clean", cwd=tmp_path)[0] == 2
    keys = {artefact["key"] for artefact in resolve_run("last", outputs).manifest["artefacts"]}
    for run in find_runs(outputs)[:-1]:
        shutil.rmtree(run.path)
    gone = {path.name for path, _ in removable(outputs)}
    assert len(gone) == 3
    assert not gone & keys
    (outputs / ".store" / PINS).write_text("".join(f"{key}\n" for key in gone))  # a notebook's call stands on them
    assert removable(outputs) == []
    assert {path.name for path, _ in removable(outputs, notebooks=True)} == gone
    (outputs / ".store" / PINS).unlink()
    monkeypatch.setattr("typer.confirm", lambda question: False)
    assert "3 folders" in ask("clean", "--unused", cwd=tmp_path)[1]  # nobody said yes
    assert len(removable(outputs)) == 3
    ask("clean", "--unused", "--yes", cwd=tmp_path)
    assert removable(outputs) == []
    assert {p.parent.name for p in outputs.glob(".store/*/*/artefact.json")} == keys
    (outputs / ".store" / "fit" / "half.partial").mkdir()
    assert removable(outputs) == []
    assert [path.name for path, _ in removable(outputs, partial=True)] == ["half.partial"]


def test_validate_says_everything_at_once():
    words = ["objective=latnt", "sae.kk=3", "sae.k=-1", "dataset.test_share=2", "lambda.value=7", "seed=1"]
    found = config_problems(words)
    assert len(found) == 5
    for line, part in zip(found, ["'latnt'", "'kk'", "dataset.test_share=2", "sae.k=-1", "lambda.value=7"], strict=True):
        assert part in line
    assert config_problems(["contrast=labels"]) == [
        "contrast.source is needed: add contrast.source=... to the command.",
        "contrast.target is needed: add contrast.target=... to the command.",
    ]
    assert config_problems([]) == []


def test_validate_looks_at_data_and_model_and_runs_nothing(ask, tmp_path, tiny_folder):
    def there(*words):
        return [f"model.path={tiny_folder}" if word == "model.path" else word for word in small(*words)]

    assert "fit together; nothing was run" in ask(*there("validate"), cwd=tmp_path)[1]
    words = [w for w in there("validate", "contrast.column=cluster", "device=cuda") if w != "layer=1"]
    _, out, err = ask(*words, "layer=9", cwd=tmp_path)
    assert "1. device=cuda" in out
    assert "2. layer.index=9" in out
    assert "unknown label column 'cluster'" in out
    assert "3 things are wrong" in err
    assert not (tmp_path / "outputs").exists()


def test_quiet_and_verbose(steer, tmp_path, fitted):
    quiet = steer(*small("fit"), "-q")
    assert quiet.stderr == ""
    assert len(quiet.stdout.splitlines()) == 1
    assert "reused" in steer(*small("fit")).stderr
