"""Our AIDO.Cell against the published code: every block's stream, the logits, both file formats, preprocessing.

Run by `make oracle`, in an environment that has modelgenerator; elsewhere it is skipped.
"""

from __future__ import annotations

import csv
import gc
import sys
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
import torch
from anndata import AnnData

pytest.importorskip("modelgenerator", reason="make oracle has it")

from steerpipe.data.genes import align, gene_list
from steerpipe.models.checkpoints import load_model
from steerpipe.models.preprocess import DepthRule, model_input

from . import reference
from .reference import S3M, S10M, S100M, SMALL

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5
BIN, SAFE = "pytorch_model.bin", "model.safetensors"


def some_values(cells, tokens, *, seed=0):
    """Values as cells have them: mostly 0, others up to 9, depth tokens last, a few masked and padded."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(cells, tokens, generator=generator) * 9
    values[torch.rand(cells, tokens, generator=generator) < 0.7] = 0
    values[:, -2:] = 5
    values[:, 3:40:7], values[:, 5:40:11] = -1, -2
    return values


def some_positions(sizes, tokens, *, seed=0):
    """A subset of the positions in random order, the depth tokens' last."""
    genes = torch.randperm(sizes.positions, generator=torch.Generator().manual_seed(seed))[: tokens - 2]
    return torch.cat([genes, torch.tensor([sizes.positions, sizes.positions + 1])])


def largest(a, b):
    return float((a - b).abs().max())


CASES = [
    (SMALL, 2, 202, False, BIN),
    (SMALL, 2, 202, False, SAFE),
    (SMALL, 2, 90, True, SAFE),
    (S3M, 1, 1_026, False, BIN),
    (S3M, 1, 1_026, True, SAFE),
    (S10M, 1, 302, True, BIN),
    (S100M, 1, 202, True, SAFE),
]


@pytest.mark.parametrize(
    ("sizes", "cells", "tokens", "subset", "form"),
    CASES,
    ids=lambda x: x.name if isinstance(x, reference.Sizes) else str(x),
)
def test_equals_the_published_network(sizes, cells, tokens, subset, form, tmp_path, parity_table):
    network = reference.build(sizes)
    values = some_values(cells, tokens)
    positions = some_positions(sizes, tokens) if subset else None
    with reference.attention():
        theirs = reference.run(network, values, positions)
    folder = reference.save(network, tmp_path, form=form)
    del network
    ours = load_model(folder)
    (folder / form).unlink()  # pytest keeps folders, and 100M parameters are 400 MB
    streams = ours.streams(values, range(sizes.layers), positions)
    output = ours(values, positions)

    assert len(theirs.streams) == len(streams) == sizes.layers
    by_block = [largest(streams[i], stream) for i, stream in enumerate(theirs.streams)]
    where = f"{tokens}{' chosen' if subset else ''} x {cells}"
    for what, difference, tensor in (
        (f"streams of {sizes.layers} blocks", max(by_block), torch.stack(theirs.streams)),
        ("after the final LayerNorm", largest(output.final, theirs.final), theirs.final),
        ("logits", largest(output.expression, theirs.logits), theirs.logits),
    ):
        parity_table(sizes.name, where, form, what, difference, float(tensor.std()))
        assert difference <= TOLERANCE, f"{what}: {difference} (by block: {by_block})"
    del ours
    gc.collect()


def test_the_perturbation_leaves_no_parameter_trivial():
    network = reference.build(SMALL)
    for name, parameter in network.named_parameters():
        if parameter.numel() > 1:
            assert parameter.std() > 0.05, name


def test_hidden_states_end_after_the_final_layer_norm():
    """Why the last block's stream has to come from a hook."""
    network = reference.build(SMALL)
    with reference.attention():
        result = reference.run(network, some_values(1, 202))
    torch.testing.assert_close(network.bert.encoder.ln(result.streams[-1]), result.final)
    assert largest(result.streams[-1], result.final) > 0.1


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="with flash-attn the published code is right")
def test_without_flash_attention_the_published_network_is_wrong(tmp_path):
    """The trap: its fallback runs, warns of nothing, and lets no token see another."""
    network = reference.build(SMALL)
    values = some_values(1, 202)
    broken = reference.run(network, values)
    with reference.attention():
        right = reference.run(network, values)
    assert largest(broken.logits, right.logits) > 0.1

    ours = load_model(reference.save(network, tmp_path, form=SAFE))
    changed = values.clone()
    changed[:, 100] = 4.5
    others = torch.arange(202) != 100
    assert largest(reference.run(network, changed).logits[:, others], broken.logits[:, others]) == 0
    assert largest(ours(changed).expression[:, others], ours(values).expression[:, others]) > 1e-3


def test_the_published_mask_changes_nothing():
    network = reference.build(SMALL)
    values = some_values(2, 202)
    mask = (torch.arange(202) < 150).float().expand(2, -1)
    with reference.attention(), torch.no_grad():
        masked = network(values, attention_mask=mask).logits[..., 0]
        whole = reference.run(network, values).logits
    with reference.attention(mask=False):
        spared = reference.run(network, values).logits
    assert torch.equal(masked, whole)
    assert torch.equal(spared, whole)


@pytest.fixture(scope="module")
def published():
    """The published code's gene alignment and its backbone class, their unused heavy imports replaced by stubs."""
    import transformers.utils  # noqa: F401  it looks for some of the packages that are stubbed below

    absent = (
        "bionty lightning lightning.pytorch lightning.pytorch.utilities lightning.pytorch.utilities.rank_zero "
        "lightning_utilities lightning_utilities.core lightning_utilities.core.rank_zero lmdb peft "
        "modelgenerator.data modelgenerator.utils"
    )
    stubs = {name: MagicMock() for name in absent.split()}
    stubs["modelgenerator.utils"].GoogleKwargsDocstringInheritanceInitMeta = type
    with patch.dict(sys.modules, stubs):
        from modelgenerator.backbones.backbones import GenBioCellFoundation
        from modelgenerator.cell.utils import align_genes
    return SimpleNamespace(backbone=GenBioCellFoundation, align_genes=align_genes)


def published_input(published, counts):
    """What the published backbone feeds its encoder, bfloat16 (N, G + 2)."""

    class Seen(Exception):
        pass

    fed = []

    def encoder(input_ids, **rest):
        fed.append(input_ids)
        raise Seen

    with suppress(Seen):
        published.backbone.forward(SimpleNamespace(encoder=encoder), torch.as_tensor(counts), None)
    return fed[0]


def test_gene_list_is_the_published_one():
    spec = find_spec("modelgenerator")
    path = Path(spec.submodule_search_locations[0]) / "cell" / "gene_lists" / "OS_scRNA_gene_index.19264.tsv"
    with path.open() as file:
        assert gene_list() == tuple(row["gene_name"] for row in csv.DictReader(file, delimiter="\t"))


@pytest.mark.filterwarnings("ignore:Trying to modify index:anndata.ImplicitModificationWarning")
def test_alignment_equals_the_published_one(published, rng):
    genes = list(gene_list())
    names = [*rng.permutation(genes)[:1_500], "not-a-gene", "ENSG-none"]
    counts = rng.poisson(0.5, (4, len(names))).astype(np.float32)
    data = AnnData(counts)
    data.var_names = names
    theirs = published.align_genes(data, np.array(genes), ensembl_field=None)
    ours = align(names, genes, aliases=False).apply(counts)
    assert list(theirs.var_names) == genes
    np.testing.assert_array_equal(ours.toarray(), theirs.X)


def test_preprocessing_equals_the_published_one(published, rng, parity_table):
    counts = rng.poisson(rng.gamma(0.1, 10, 19_264), (6, 19_264)).astype(np.float32)
    counts[4] = 0
    counts[4, 7] = 250_000
    counts[5] = 0
    counts[5, :2] = 1, 1_677
    theirs = published_input(published, counts)
    ours = model_input(counts, DepthRule())
    difference = largest(ours.bfloat16().float(), theirs.float())
    parity_table("input", "19266 x 6", "-", "log1p CP10K and depth, as bfloat16", difference, float(theirs.float().std()))
    assert difference == 0


def test_preprocessing_golden_values():
    """In float32: the published backbone rounds to bfloat16, its notebooks do not."""
    counts = np.zeros((2, 19_264), np.float32)
    counts[0, :2] = 1, 1_677
    counts[1, 3] = 250_000
    ours = model_input(counts, DepthRule())
    np.testing.assert_allclose(ours[0, [0, 1, -2, -1]], [1.9401, 9.2098, 5, 5], atol=5e-5)
    np.testing.assert_allclose(ours[1, [3, -2, -1]], [9.2104, 5.3979, 5.3979], atol=5e-5)


def test_versions_are_the_pinned_ones():
    """transformers 5 breaks the published code, once without a word."""
    assert version("modelgenerator") == "0.1.3.post0"
    assert version("transformers").startswith("4.")
