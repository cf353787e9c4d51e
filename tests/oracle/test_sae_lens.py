"""SAELens reads what we write and we read what it writes, code for code. `make oracle-sae` has it."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("sae_lens", reason="make oracle-sae has it")

import sae_lens

from steerpipe.errors import SteerError
from steerpipe.sae.io import load_sae, save_sae
from steerpipe.sae.model import ThresholdSAE, TopKSAE

pytestmark = pytest.mark.oracle
D, F, K = 24, 96, 8


def filled(module, seed=0, scale=0.3):
    """Random weights for every parameter: biases and thresholds too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
            if name == "threshold":
                p.abs_()
    return module.requires_grad_(False)


@pytest.fixture
def x():
    return torch.randn(200, D, generator=torch.Generator().manual_seed(7))


def compare(ours, theirs, x, ours_codes=lambda z: z):
    z = ours_codes(ours.encode(x).dense(F))
    torch.testing.assert_close(z, theirs.encode(x), atol=1e-5, rtol=1e-5)
    assert ((z != 0) == (theirs.encode(x) != 0)).all()
    return z


def written(sae, folder):
    """What SAELens makes of a file of ours."""
    save_sae(sae, folder, {"note": "kept"})
    theirs = sae_lens.SAE.load_from_disk(folder)
    assert theirs.cfg.metadata["note"] == "kept"
    assert theirs.cfg.metadata["activation"] == sae.activation
    return theirs


def test_relu_codes_are_the_same_there(tmp_path, x):
    ours = filled(TopKSAE(D, F, K, activation="relu"))
    theirs = written(ours, tmp_path)
    assert theirs.cfg.architecture() == "topk"
    assert theirs.cfg.metadata["saelens"] == "exact"
    assert compare(ours, theirs, x).count_nonzero() == K * len(x)
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)


def test_relu_codes_are_the_same_where_fewer_than_k_are_positive(tmp_path, x):
    ours = filled(TopKSAE(D, F, K, activation="relu"))
    ours.b_enc -= 3.5
    z = compare(ours, written(ours, tmp_path), x)
    assert 0 < z.count_nonzero() < K * len(x)


def test_signed_codes_are_the_same_there_until_one_is_negative(tmp_path, x):
    ours = filled(TopKSAE(D, F, K, activation="identity"))
    theirs = written(ours, tmp_path / "positive")
    assert theirs.cfg.metadata["saelens"] == "codes below 0 are read as 0"
    assert compare(ours, theirs, x).min() == 0  # k of 96: none is negative
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)
    ours.b_enc -= 3.5
    theirs = written(ours, tmp_path / "signed")
    z = ours.encode(x).dense(F)
    assert (z < 0).sum() > len(x)
    compare(ours, theirs, x, lambda z: z.clamp_min(0))
    assert (theirs(x) - ours(x)).abs().max() > 0.3


@pytest.mark.parametrize(
    ("activation", "shift", "told"), [("relu", 0, "exact"), ("identity", 0, "exact"), ("identity", -3, "below")]
)
def test_thresholds_are_jumprelu_there(tmp_path, x, activation, shift, told):
    ours = filled(ThresholdSAE(D, F, K, activation=activation))
    ours.threshold += shift
    theirs = written(ours, tmp_path)
    assert theirs.cfg.architecture() == "jumprelu"
    assert told in theirs.cfg.metadata["saelens"]
    z = compare(ours, theirs, x, lambda z: z.clamp_min(0) if shift else z)
    assert 0 < z.count_nonzero() < z.numel() / 2 or shift
    again = load_sae(tmp_path)
    torch.testing.assert_close(again.encode(x).dense(F), ours.encode(x).dense(F), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("rescale_acts_by_decoder_norm", [True, False])
def test_their_topk_files_are_read(tmp_path, x, apply_b_dec_to_input, rescale_acts_by_decoder_norm):
    options = {"apply_b_dec_to_input": apply_b_dec_to_input, "rescale_acts_by_decoder_norm": rescale_acts_by_decoder_norm}
    theirs = filled(sae_lens.TopKSAE(sae_lens.TopKSAEConfig(D, F, k=K, **options)))
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert (ours.activation, ours.k) == ("relu", K)
    compare(ours, theirs, x)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inference", [True, False])
def test_their_trained_topk_is_read(tmp_path, x, inference):
    trained = filled(sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(D, F, k=K)))
    assert trained.cfg.rescale_acts_by_decoder_norm
    (trained.save_inference_model if inference else trained.save_model)(tmp_path)
    ours = load_sae(tmp_path)
    compare(ours, trained, x)
    torch.testing.assert_close(ours(x), trained(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["JumpReLU", "Standard"])
def test_their_other_sparse_files_are_read(tmp_path, x, kind):
    theirs = filled(getattr(sae_lens, f"{kind}SAE")(getattr(sae_lens, f"{kind}SAEConfig")(D, F)))
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert isinstance(ours, ThresholdSAE)
    compare(ours, theirs, x)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_their_batchtopk_is_read_as_what_it_is_saved_as(tmp_path, x):
    config = sae_lens.BatchTopKTrainingSAEConfig(D, F, k=K)
    trained = filled(sae_lens.BatchTopKTrainingSAE(config))
    trained.topk_threshold.fill_(2.0)
    trained.save_inference_model(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "jumprelu"
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    z = compare(load_sae(tmp_path), theirs, x)
    assert 0 < z.count_nonzero() < z.numel() / 2


@pytest.mark.parametrize("kind", [TopKSAE, ThresholdSAE])
def test_a_gene_centred_file_is_refused_there_by_the_name_of_its_architecture(tmp_path, kind):
    save_sae(filled(kind(D, F, K)).centre_genes(torch.randn(3, D), ("a", "b", "c")), tmp_path, {})
    with pytest.raises(KeyError, match="gene_centred"):
        sae_lens.SAE.load_from_disk(tmp_path)


def test_what_would_be_read_wrongly_is_refused(tmp_path):
    options = {"normalize_activations": "layer_norm"}
    sae_lens.TopKSAE(sae_lens.TopKSAEConfig(D, F, k=K, **options)).save_model(tmp_path / "a")
    with pytest.raises(SteerError, match="normalize_activations='layer_norm' is not supported"):
        load_sae(tmp_path / "a")
    sae_lens.GatedSAE(sae_lens.GatedSAEConfig(D, F)).save_model(tmp_path / "b")
    with pytest.raises(SteerError, match="'gated' is not supported"):
        load_sae(tmp_path / "b")
