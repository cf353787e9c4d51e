"""`steer annotate`, `feature`, `features` and fits on annotated features, on a tiny model and sets that are planted in it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from steerpipe.cli.hydra import compose
from steerpipe.commands import annotate as annotate_command
from steerpipe.commands import feature, features
from steerpipe.data.datasets import pbmc68k_reduced
from steerpipe.errors import SteerError
from steerpipe.pipeline import annotation as annotate
from steerpipe.pipeline.experiment import prepare
from steerpipe.pipeline.fit import fit
from steerpipe.run import Run
from steerpipe.store import Store

from ..made import Made


@pytest.fixture(scope="module")
def context(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")

    def make(*overrides):
        words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=150"]
        run = Run(folder / f"run{len(list(folder.glob('run*')))}", "test", {})
        run.path.mkdir()
        small = ["annotate.min_size=3", "annotate.n_random=2", "sae.tokens=40000"]
        return Made(compose(*words, *small, *overrides), Store(folder / "store"), run=run)

    return make


@pytest.fixture(scope="module")
def go(context):
    """The annotation with the shipped sets."""
    made = context()
    return made, annotate.annotation(made)


@pytest.fixture(scope="module")
def planted(go, tmp_path_factory):
    """A GMT with the genes of three features, ten random sets beside them, and which features they are."""
    _, found = go
    strong = found.features.sort_values(["pr", "feature"])["feature"].to_numpy()
    chosen = [int(f) for f in strong[found.features.loc[strong, "n_genes"] >= 10][[5, 20, 40]]]
    rng = np.random.default_rng(0)
    genes = pbmc68k_reduced().var_names.to_numpy()
    lines = [f"planted {f}\t\t" + "\t".join(found.features.at[f, "genes"].split(", ")) for f in chosen]
    lines += [f"random {i}\t\t" + "\t".join(rng.choice(genes, 60, replace=False)) for i in range(10)]
    path = tmp_path_factory.mktemp("sets") / "planted.gmt"
    path.write_text("\n".join(lines) + "\n")
    return f"annotate.library={path}", chosen


def builds(context):
    lines = (context.store.root / "builds.jsonl").read_text().splitlines()
    return Counter(json.loads(line)["stage"] for line in lines)


def test_planted_sets_are_found_and_only_the_test_is_done_again(context, go, planted):
    before = builds(go[0])
    library, chosen = planted
    found = annotate.annotation(context(library))
    after = builds(go[0])
    assert after - before == Counter({"annotate": 1})  # another library streams no token again
    for f in chosen:
        row = found.features.loc[f]
        assert row["label"] == f"planted {f}"
        assert row["label_q"] < 1e-6
        assert row["half_label"] == f"planted {f}"
        assert row["half_q"] < 0.05
        own = found.enrichment[(found.enrichment["feature"] == f) & (found.enrichment["term"] == f"planted {f}")].iloc[0]
        assert own["overlap"] == own["feature_genes"] == own["set_genes"]
        assert set(own["genes"].split(", ")) <= set(row["genes"].split(", "))  # without those outside the background
        assert len(own["genes"].split(", ")) == own["overlap"]
    assert found.mask()[chosen].all()
    assert found.features["label_ic"].isna().all()  # no GO term


def test_the_tables_are_whole(go):
    _, found = go
    frame = found.features
    assert frame["feature"].tolist() == list(range(128))
    dead = frame["pr"] == 0
    assert (frame["density"][dead] == 0).all()
    assert (frame["genes"][dead] == "").all()
    alive = frame[~dead]
    assert alive["n_genes"].between(1, 100).all()
    assert (alive["genes"].str.split(", ").str.len() == alive["n_genes"]).all()
    hits = found.enrichment[found.enrichment["q"] < 0.05]
    assert set(hits["feature"]) == set(frame.loc[found.mask(), "feature"])
    best = found.enrichment.drop_duplicates("feature").set_index("feature")["p"]
    assert (found.enrichment.groupby("feature")["p"].min() == best).all()
    assert found.types.groupby("feature").size().eq(len(found.activity.types)).all()


def test_main_writes_tables_figures_and_five_dictionaries(context, go):
    made = context()
    annotate_command.main(made, made.run)
    table = pd.read_csv(made.run.path / "dictionaries.csv").set_index("dictionary")
    assert table.index.tolist() == ["sae", "neurons", "pca", "ica", "random"]
    assert table["features"].tolist() == [128, 32, 32, 32, 128]
    for column in ("annotated", "false_positive", "annotated_direct"):
        assert table[column].between(0, 1).all()
    assert (table["pr_q1"] <= table["pr_q3"]).all()
    assert table.loc["neurons", "pr_median"] > table.loc["sae", "pr_median"]  # dense against sparse codes
    assert np.isnan(table.loc["sae", "mann_whitney_p"])
    assert table.loc["sae", "annotated"] == go[1].mask().mean()
    for name in ("features.parquet", "enrichment.parquet", "modules.csv", "cell_types.csv", "plots/dictionaries.svg"):
        assert (made.run.path / name).stat().st_size > 100
    before = builds(made)
    made = context()
    annotate_command.main(made, made.run)
    assert builds(made) == before


def test_search(context, go, capsys):
    label = go[1].features.loc[go[1].mask(), "label"]
    gene = go[1].features["genes"].str.split(", ").iloc[int(np.flatnonzero(go[1].features["pr"])[0])][0]
    made = context(f"feature.find={gene.lower()}")
    features.main(made, made.run)
    found = pd.read_csv(made.run.path / "features.csv", keep_default_na=False)
    hit = found["genes"].str.split(", ").map(lambda genes: gene in genes)
    named = found[["label", "terms", "direct_terms", "half_label", "cell_types"]].agg(" ".join, axis=1)
    assert len(found)
    assert (hit | named.str.contains(gene, case=False, regex=False)).all()
    assert "genes" in capsys.readouterr().out
    made = context("feature.find=no such thing")
    features.main(made, made.run)
    assert json.loads((made.run.path / "metrics.json").read_text()) == {"features/found": 0}
    assert len(label) == go[1].mask().sum()


def test_a_card(context, planted, capsys):
    library, chosen = planted
    made = context(library, f"feature.id={chosen[0]}", "feature.alphas=[-3,1,5]", "feature.cells=5", "feature.n_random=1")
    feature.main(made, made.run)
    text = capsys.readouterr().out
    assert f"planted {chosen[0]}" in text
    assert "random direction" in text
    card = json.loads((made.run.path / "card.json").read_text())
    assert card["label"] == f"planted {chosen[0]}"
    assert [row["alpha"] for row in card["dose"]] == [-3, 1, 5]
    assert card["dose"][1]["shift"] == 0 < card["dose"][2]["shift"]
    assert [row["mirror"] for row in card["symmetry"]] == [-3, -3]
    assert (made.run.path / "plots" / f"feature_{chosen[0]}.png").stat().st_size > 1000
    types = pd.read_csv(made.run.path / "cell_types.csv")
    sizes = annotate.inputs(made).source.obs[made.config.dataset.label].astype(str).value_counts()
    assert card["steered_in"] == next(name for name in types["type"] if sizes[name] > 1)  # where it fires most
    with pytest.raises(SteerError, match="features 0 to 127"):
        feature.main(context("feature.id=128"), made.run)
    with pytest.raises(SteerError, match=r"feature\.id is needed"):
        feature.main(context(), made.run)


@pytest.mark.parametrize("name", ["latent", "expression"])
def test_a_fit_on_annotated_features_recruits_no_other(context, planted, name):
    library, _ = planted
    made = context(library, f"objective={name}", "objective.learnable=annotated", "lambda.value=0.01")
    experiment = prepare(made)
    mask = annotate.annotation(made).mask()
    recipe = fit(experiment, made.config.objective)
    on = np.flatnonzero(recipe.theta)
    assert len(on)
    assert mask[on].all()
    if name == "expression":
        return
    free = context(library, f"objective={name}", "lambda.value=0.01")
    assert fit(prepare(free), free.config.objective).artefact.key != recipe.artefact.key


def test_no_annotated_feature_left_is_said(context, tmp_path):
    (tmp_path / "none.gmt").write_text("all\t\t" + "\t".join(pbmc68k_reduced().var_names) + "\n")
    made = context(f"annotate.library={tmp_path}/none.gmt", "objective.learnable=annotated")
    with pytest.raises(SteerError, match="no active feature has a term"):
        fit(prepare(made), made.config.objective)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["annotate.library=go_pb"], "did you mean 'go_bp'"),
        (["annotate.min_size=400"], "none of the 6482 sets of go_bp has 400 to 500"),
    ],
)
def test_mistakes(context, go, words, message):
    with pytest.raises(SteerError, match=message):
        annotate.annotation(context(*words))
