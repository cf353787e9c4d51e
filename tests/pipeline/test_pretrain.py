"""`steer pretrain` as a stage: whose the weights are that it goes on from."""

from __future__ import annotations

from steerpipe.cli.hydra import compose
from steerpipe.models.checkpoints import LICENCE, OWN_LICENCE, provenance
from steerpipe.pipeline import pretrained as stage
from steerpipe.pipeline.context import Context
from steerpipe.store import Store


def test_weights_trained_further_stay_under_the_licence_of_their_start(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "pretrain", lambda *args, **options: None)
    for start, licence in ((tiny_folder, LICENCE), ("mini", OWN_LICENCE)):
        config = compose("pretrain=finish", f"pretrain.start={start}", "pretrain.dataset=pbmc68k_reduced")
        artefact = stage.trained(Context(config, Store(tmp_path)))
        assert provenance(artefact.path)["licence"] == licence
