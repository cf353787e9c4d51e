"""What a build reads is its key: every setting that is read while something is built is held by its key or by a parent's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from steerpipe import config as settings
from steerpipe.cli.hydra import compose
from steerpipe.config import Config
from steerpipe.pipeline.null import null_recipes
from steerpipe.pipeline.pipeline import Pipeline
from steerpipe.run import flatten
from steerpipe.store import Store

GROUPS = [one for one in vars(settings).values() if dataclasses.is_dataclass(one) and one is not Config]
HELD_OTHERWISE = {
    # held as a digest: of the model's or a dataset's files, of the test cells, of the contrast's cells
    "ModelConfig.path", "ModelConfig.revision", "DatasetConfig.path", "SaeConfig.path",
    "ContrastConfig.source", "ContrastConfig.target", "ContrastConfig.column", "ContrastConfig.halves", "ContrastConfig.seed",
    "DatasetConfig.groups", "DatasetConfig.batch", "DatasetConfig.test", "DatasetConfig.test_share", "DatasetConfig.split_seed",
    "DatasetConfig.held", "DatasetConfig.perturbation",
    "AnnotateConfig.library",
    # held for users' own files alone: the gene names of our own datasets are in their index
    "DatasetConfig.gene_column",
    # how the work is cut and where it is done: the result is the same up to rounding
    "ModelConfig.batch_size", "Config.device", "ExtractConfig.part", "ExtractConfig.parts", "ExtractConfig.shard_tokens",
    # read to choose what is built, which is held
    "Config.activations", "ExtractConfig.max_bytes", "ExtractConfig.n_tokens", "ExtractConfig.seed",
}  # fmt: skip
"""Read while building, and held in another way than by name."""
BY_STEP = {
    # opening a dataset names its column of labels; every column of obs is stored, and these look at none
    "gene-expression": {"DatasetConfig.label"},
    "extract": {"DatasetConfig.label", "LayerConfig.index"},  # one of its `layers`
    # left out of the key at their defaults, with which older stores were built
    "streams": {"DatasetConfig.label", "ModelConfig.readout"},
    "train-sae": {f"SaeConfig.{name}" for name in ("centre", "members", "support", "tune", "tune_lr")},
}
"""Likewise of one step."""


def is_held(setting, known):
    """Whether a key holds `DatasetConfig.layer`, as `dataset.layer` or as `layer`; the layer's own index is `layer` alone."""
    if setting == "LayerConfig.index":
        return "layer" in known
    group, name = setting.split(".")
    return bool({name, f"{group.removesuffix('Config').lower()}.{name}"} & known)


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """A store that notes, for each artefact, which settings were read while it was built."""
    reading, reads = [], {}

    class Watched(Store):
        def get(self, stage, *, build, **options):
            def noted(folder):
                reading.append(set())
                build(folder)
                names.update(reading.pop())

            names: set[str] = set()
            made = super().get(stage, build=noted, **options)
            reads.setdefault((stage, made.key), names)
            return made

    plain = object.__getattribute__
    for group in [*GROUPS, Config]:
        names = {one.name for one in dataclasses.fields(group)}

        def note(self, name, group=group, names=names):
            value = plain(self, name)
            if reading and name in names and not dataclasses.is_dataclass(value):
                reading[-1].add(f"{group.__name__}.{name}")
            return value

        monkeypatch.setattr(group, "__getattribute__", note)
    return Watched(tmp_path / "store"), reads


def held(store):
    """Names in the key of every artefact, and in those of what it stands on."""
    records = {record.parent.name: json.loads(record.read_text()) for record in Path(store.root).glob("*/*/artefact.json")}

    def names(key):
        return set(flatten(records[key]["config"])).union(*(names(parent) for parent in records[key]["parents"]))

    return {key: names(key) for key in records}


@pytest.mark.slow
def test_every_setting_that_a_build_reads_is_in_its_key(watched, tiny_folder):
    store, reads = watched
    words = ["debug=small", "model=local", f"model.path={tiny_folder}", "layer=1", "dataset.max_cells=150", "sae.tokens=8192"]
    words += ["annotate.min_size=3", "objective.max_cells=2", "objective.max_steps=1", "lambda.value=0.5"]
    pipeline = Pipeline(compose(*words), store)
    pipeline.annotation()
    pipeline.fit()
    pipeline.fit(dataclasses.replace(pipeline.config.objective, name="expression"))
    null_recipes(pipeline.experiment(), pipeline.config.objective)
    known = held(store)
    steps = {step for step, _ in reads}
    assert {"extract", "train-sae", "streams", "codes", "activity", "annotate", "fit", "expression-path", "null"} <= steps
    loose = {}
    for (step, key), names in reads.items():
        left = {name for name in names - HELD_OTHERWISE - BY_STEP.get(step, set()) if not is_held(name, known[key])}
        loose |= {f"{step} {key}": sorted(left)} if left else {}
    assert not loose
