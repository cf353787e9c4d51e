"""`steer train-sae` and `steer stability` as typed: baselines, a sweep's one table, seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steerpipe.commands.sae_sweep import SCORES, on_front, write_sweep

from .conftest import small


def test_training_reports_the_sae_beside_its_baselines(steer):
    run = Path(steer("train-sae", *small("outputs=out", "dataset.label=bulk_labels")).stdout.split()[-1])
    folder = run if run.is_absolute() else None
    assert folder is not None
    table = pd.read_csv(folder / "dictionaries.csv", index_col=0)
    assert table.index.tolist() == ["SAE", "neurons", "PCA", "first 8 PCs", "ICA", "random SAE"]
    assert (table["l0"] <= 8 + 1e-6).all()
    assert table.loc["PCA", "fvu"] <= table.loc["first 8 PCs", "fvu"]  # the largest codes beat the first ones
    assert table.loc["SAE", "fvu"] < table.loc["random SAE", "fvu"]
    assert table[["fidelity_loss", "fidelity_expression"]].notna().all(None)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["sae_held/fvu"] == pytest.approx(table.loc["SAE", "fvu"], rel=1e-6)
    types = pd.read_csv(folder / "types.csv")
    assert types["n"].sum() == 45
    for name in ("training_curve", "features", "baselines"):
        assert all((folder / "plots" / f"{name}.{kind}").is_file() for kind in ("png", "svg", "csv"))
    curve = pd.read_csv(folder / "plots" / "training_curve.csv")
    assert curve["tokens"].is_monotonic_increasing
    assert curve["fvu"].iloc[-1] < curve["fvu"].iloc[0]


def test_a_sweep_makes_one_table(steer, workdir):
    words = small("outputs=out", "-m", "sae.expansion=2,4", "sae.seed=0,1", "score=quick", "sae.tokens=40000")
    last = Path(steer("train-sae", *words).stdout.split()[-1])
    table = pd.read_csv(last.parent / "dictionaries.csv")
    assert table["job"].tolist() == [0, 1, 2, 3]
    assert table[["expansion", "seed"]].drop_duplicates().shape == (4, 2)
    assert (table["n_features"] == 32 * table["expansion"]).all()
    for row in table.itertuples():
        mine = json.loads((last.parent / str(row.job) / "metrics.json").read_text())
        assert row.fvu == pytest.approx(mine["sae_held/fvu"])
    assert (last.parent / "plots" / "frontier.png").is_file()
    settings = pd.read_csv(last.parent / "settings.csv")
    assert settings["seeds"].tolist() == [2, 2]
    assert settings["front"].any()
    pair = pd.read_csv(last.parent / "3" / "seeds.csv")  # the last job's sibling is the one before
    assert pair["seed"].tolist() == [0]
    assert settings.loc[settings["expansion"] == 4, "recur"].item() == pytest.approx(pair["recur"].item())


def test_a_consensus_stands_beside_its_members(steer):
    words = small(
        "outputs=out", "sae=consensus", "sae.members=2", "sae.expansion=4", "sae.k=4", "score=quick", "sae.tokens=200000"
    )
    run = Path(steer("train-sae", *words).stdout.split()[-1])
    table = pd.read_csv(run / "dictionaries.csv")
    assert table["dictionary"].tolist() == ["SAE", "member, seed 0", "member, seed 1"]
    assert table["n_features"].nunique() == 1
    assert (table["fvu"] < 1).all()
    trained = [a for a in json.loads((run / "manifest.json").read_text())["artefacts"] if a["stage"] == "train-sae"]
    assert len(trained) == 3
    store = run.parents[2] / ".store" / "train-sae"
    pools = [pd.read_csv(store / a["key"] / "pool.csv") for a in trained if (store / a["key"] / "pool.csv").is_file()]
    assert len(pools) == 1
    assert pools[0]["support"].isin([0.5, 1]).all()
    assert pools[0]["support"].is_monotonic_decreasing
    n = int((pools[0]["support"] == 1).sum())
    assert 4 <= n < len(pools[0])
    run = Path(steer("train-sae", *words, "sae.support=1").stdout.split()[-1])
    assert pd.read_csv(run / "dictionaries.csv")["n_features"].tolist() == [n, 128, 128]


def test_batch_selection_as_typed(steer):
    run = Path(steer("train-sae", *small("outputs=out", "sae.selection=batchtopk", "score=quick")).stdout.split()[-1])
    manifest = json.loads((run / "manifest.json").read_text())
    trained = next(a for a in manifest["artefacts"] if a["stage"] == "train-sae")
    cfg = json.loads((run.parents[2] / ".store" / "train-sae" / trained["key"] / "cfg.json").read_text())
    assert cfg["architecture"] == "jumprelu"
    assert json.loads((run / "metrics.json").read_text())["sae_held/l0"] == pytest.approx(8, rel=0.2)


def test_stability_beside_its_controls(steer):
    run = Path(steer("stability", *small("outputs=out")).stdout.split()[-1])
    table = pd.read_csv(run / "stability.csv").set_index("kind")
    ones = ["matched", "mmcs", "mmcs_energy", "share_above", "recur", "recur_energy"]
    assert table.loc["itself, permuted", ones].to_numpy(float) == pytest.approx(1)
    assert table.loc["random", "recur"] < table.loc["seeds", "recur"] < 1
    assert table.loc["seeds", "matched"] > table.loc["random", "matched"]
    assert table.loc["seeds", "gene_sets_of_pairs"] > table.loc["seeds", "gene_sets_of_random_pairs"]
    pairs = pd.read_csv(run / "pairs.csv")
    assert set(pairs["kind"]) == {"seeds", "random", "itself, permuted"}
    assert np.isclose(pairs.loc[pairs["kind"] == "seeds", "similarity"].mean(), table.loc["seeds", "matched"])
    features = pd.read_csv(run / "features.csv")
    assert features["stability"].isin([0, 1]).all()  # one other seed
    mine = features[(features["seed"] == 0) & features["fires"]]
    other = features[(features["seed"] == 1) & features["fires"]]
    recur = np.mean([mine["stability"].mean(), other["stability"].mean()])
    assert recur == pytest.approx(table.loc["seeds", "recur"])
    listed = Path(steer("annotate", *small("outputs=out", "annotate.baselines=false")).stdout.split()[-1])
    shown = pd.read_parquet(listed / "features.parquet")
    assert shown["stability"].tolist() == features.loc[features["seed"] == 0, "stability"].tolist()


def test_the_front_is_what_nothing_beats():
    columns = {"fidelity_loss": [0.9, 0.9, 0.8, 0.95], "recur_energy": [0.5, 0.4, 0.6, np.nan], "l0": [8, 8, 8, 8]}
    assert on_front(pd.DataFrame(columns)).tolist() == [True, False, True, True]
    assert on_front(pd.DataFrame({**columns, "l0": [8, 4, 8, 8]})).tolist() == [True, True, True, True]
    assert on_front(pd.DataFrame({**columns, "recur_energy": np.nan})).tolist() == [False, False, False, True]


def test_a_sweep_tells_settings_apart_whatever_they_differ_in(tmp_path):
    for job, support in enumerate((0.0, 0.6, 0.6)):
        sae = {"expansion": 2, "k": 8, "selection": "topk", "seed": job, "lr": 1e-3, "tokens": 10, "members": 3}
        config = {"sae": sae | {"support": support, "centre": "none"}}
        (tmp_path / str(job)).mkdir()
        (tmp_path / str(job) / "manifest.json").write_text(json.dumps({"config": config}))
        scores = {f"sae_held/{name}": 0.5 for name in SCORES} | {"sae/n_features": 256, "sae/seconds": 1.0}
        (tmp_path / str(job) / "metrics.json").write_text(json.dumps(scores))
    _, settings = write_sweep(tmp_path, "a caption")
    assert settings["support"].tolist() == [0, 0.6]
    assert settings["seeds"].tolist() == [1, 2]
