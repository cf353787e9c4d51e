"""The embedded model: its files, its card, and that it holds cell identity on cells that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerpipe.cli.hydra import compose
from steerpipe.config import EMBEDDED
from steerpipe.data.datasets import pbmc68k_reduced
from steerpipe.data.genes import gene_list
from steerpipe.models.checkpoints import PACKAGED, load_model
from steerpipe.models.preprocess import model_input
from steerpipe.pipeline.activations import load_cells
from steerpipe.pipeline.pretrained import score_model, training_counts
from steerpipe.pretraining.score import Profiles, identity_table


@pytest.fixture(scope="module", params=EMBEDDED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def mini(name):
    return load_model(name)


def test_size_and_genes(mini, name):
    assert sum(file.stat().st_size for file in (PACKAGED / name).iterdir()) < 5e6
    arch = mini.arch
    assert (arch.hidden_size, arch.num_hidden_layers, arch.num_attention_heads, arch.intermediate_size) == (128, 6, 4, 320)
    genes, listed = set(mini.genes), gene_list()
    assert len(mini.genes) == 2048
    assert list(mini.genes) == [gene for gene in listed if gene in genes]
    assert {g for g in pbmc68k_reduced().var_names if g in set(listed)} <= genes
    assert {"CD8A", "CD8B", "CD4", "ISG15", "IFIT1", "NKG7"} <= genes


def test_card_says_what_it_is(name):
    card = (PACKAGED / name / "MODEL_CARD.md").read_text()
    for word in ("not AIDO.Cell", "CC BY 4.0", "PBMC8K", "seed", "steer pretrain"):
        assert word in card


def test_upper_blocks_alone_equal_the_whole_model(mini):
    counts = np.random.default_rng(0).poisson(0.5, (2, 2048))
    x = model_input(counts, mini.arch.depth)
    whole, read = mini(x), torch.arange(0, 2048, 7)
    part = mini.forward_from(3, mini.stream(x, 3), read)
    assert (part.expression - whole.expression[:, read]).abs().max() <= 1e-5


@pytest.mark.data
@pytest.mark.slow
def test_it_tells_cd8_from_cd4_on_pbmc3k_better_than_raw_counts(mini):
    config = compose("dataset=pbmc3k")
    cells = load_cells(config, mini.genes)
    labels, groups = cells.obs["louvain"], config.dataset.groups
    rows = np.flatnonzero(labels.isin([*groups["cd4"], *groups["cd8"]]))
    rows = np.sort(np.random.default_rng(1).permutation(rows)[:200])
    data = Profiles(cells[rows].toarray(), cells.valid)
    table = identity_table(mini, data, labels.isin(groups["cd8"]).to_numpy()[rows], config.layer.index).set_index("reader")[
        "auc"
    ]
    assert table["predicted CD8A"] > table["raw CD8A"]
    assert table["predicted CD8B"] > table["raw CD8B"]
    assert table["probe: mean stream"] > max(table["raw CD8A"], table["raw CD8B"])


@pytest.mark.data
@pytest.mark.slow
def test_masked_genes_on_pbmc3k_are_predicted_better_than_by_their_mean_ridge_and_knn(mini):
    config = compose("dataset=pbmc3k")
    table = score_model(mini, config, training_counts(compose(), mini.genes), max_cells=150)["masked"]
    scores = table.set_index("predictor")["mse_over_mean"]
    assert scores["gene mean"] == pytest.approx(1.0)
    assert max(scores["ridge"], scores["kNN"]) < 1.0
    assert scores["model"] < min(scores["ridge"], scores["kNN"])
