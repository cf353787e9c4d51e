"""Every file in conf/ composes, converts and says what it is for."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from steerpipe.cli.hydra import CONF, compose, expand_numbers, groups
from steerpipe.config import Config
from steerpipe.errors import SteerError

MANDATORY = {
    ("model", "local"): ["model.path=x"],
    ("dataset", "h5ad"): ["dataset.path=x"],
    ("sae", "file"): ["sae.path=x"],
    ("contrast", "labels"): ["contrast.source=a", "contrast.target=b"],
}
CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda x: x)
def test_every_choice_composes(group, choice):
    config = compose(f"{group}={choice}", *MANDATORY.get((group, choice), []))
    assert isinstance(config, Config)


@pytest.mark.parametrize(("group", "choice"), sorted(MANDATORY))
def test_mandatory_values_are_asked_for_by_name(group, choice):
    with pytest.raises(SteerError, match=r"is needed: add .*=.* to the command"):
        compose(f"{group}={choice}")


def test_yaml_and_dataclass_agree_on_the_defaults():
    """The defaults live in the dataclasses; a choice states only what makes it that choice."""
    config = compose()
    assert (config.sae.expansion, config.sae.k) == (2, 8)  # a small model's
    assert [(c.sae.expansion, c.sae.k) for c in (compose("sae=x8_k32"), compose("model=aido_cell_100m"))] == [(8, 32), (8, 32)]
    assert (config.lam.mode, config.lam.value) == ("ratio", 0.05)
    assert config.layer.index == config.model.steering_layer == 4
    assert compose("seed=7").sae.seed == compose("seed=7").contrast.seed == 7


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("lambda=1e-3", ["lambda=absolute", "lambda.value=1e-3"]),
        ("lambda=1e-3,1e-2", ["lambda=absolute", "lambda.value=1e-3,1e-2"]),
        ("lambda=path", ["lambda=path"]),
        ("lambda=ratio,absolute", ["lambda=ratio,absolute"]),
        ("lambda.value=0.1", ["lambda.value=0.1"]),
        ("layer=4", ["layer.index=4"]),
        ("layer=3,4", ["layer.index=3,4"]),
        ("layer=range(0,3)", ["layer.index=range(0,3)"]),
        ("layer=last", ["layer=last"]),
        ("objective=latent,expression", ["objective=latent,expression"]),
        ("~debug", ["~debug"]),
        ("debug=null", []),
        ("a=[", ["a=["]),
    ],
)
def test_bare_numbers(typed, given):
    assert expand_numbers(typed) == given


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.name=latnt", "did you mean 'latent'"),
        ("lambda.value=-1", "lambda.value=-1.0 must be greater than 0"),
        ("lambda.value=2", "must be at most 1"),
        ("dataset.test_share=1.5", r"must lie in \[0, 1\)"),
        ("annotate.q=1.5", "strictly between 0 and 1"),
        ("contrast.halves=true", "contrast.target=cd8 must be null"),
        ("contrast.target=null", "contrast.target is needed"),
        ("sae.activation=gelu", "unknown sae.activation 'gelu'"),
        ("objective.seen_genes=0", r"must lie in \(0, 1\]"),
        ("objective.weight=2", r"must lie in \[0, 1\]"),
        ("objective.tokens=depth", "unknown objective.tokens 'depth'"),
        ("objective.tokens=[]", "steers nothing"),
        ("objective.solver=sgd", "Allowed: exact, adam"),
        ("evaluate.controls=some", "Allowed: all, none"),
        ("reuse=maybe", "Allowed: auto, never, only"),
        ("device=tpu", "Allowed: auto, cpu, cuda, mps"),
        ("evaluate.objectives=[latent,other]", "unknown evaluate.objectives 'other'"),
        ("pretrain.full_steps=9999", "must lie between 0 and pretrain.steps"),
        ("extract.dtype=int8", "Allowed: float16, bfloat16, float32"),
    ],
)
def test_values_that_are_not_allowed(override, message):
    with pytest.raises(SteerError, match=message) as error:
        compose(override)
    assert "\n" not in str(error.value)


def test_clamp_is_fitted_for_the_latent_objective_alone():
    assert compose("objective.mode=clamp").objective.mode == "clamp"
    with pytest.raises(SteerError, match="clamp is fitted for objective=latent, not expression: take multiply or add"):
        compose("objective=expression", "objective.mode=clamp")


def test_the_released_models_name_the_hub_and_a_revision():
    sizes = {"3m": (4, "main"), "10m": (5, "main"), "100m": (12, "71b1d8586687762733848c6f21e1bcc12db33f18")}
    for size, (layer, revision) in sizes.items():
        config = compose(f"model=aido_cell_{size}")
        assert config.model.path == f"genbio-ai/AIDO.Cell-{size.upper()}"
        assert config.layer.index == config.model.steering_layer == layer
        assert config.model.revision == revision
    assert compose().model.revision is None
    assert compose("model=local", "model.path=/x").model.revision is None


def test_every_choice_says_what_it_is_for():
    bare = ("extract/default", "sae/x16_k32", "debug/small", "experiment/mirror_boxplot")
    for group, choice in CHOICES:
        text = (CONF / group / f"{choice}.yaml").read_text()
        if f"{group}/{choice}" not in bare:
            assert text.startswith("#"), f"{group}/{choice}"
        assert OmegaConf.create(text) is not None
