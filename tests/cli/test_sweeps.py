"""A sweep's jobs are composed as Hydra composes them, but what they share only once."""

from __future__ import annotations

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from steerpipe.cli.hydra import CONF, _register
from steerpipe.cli.sweeps import from_shared

JOBS = [
    ["lambda=ratio", "lambda.value=0.1", "seed=3"],
    ["lambda=ratio", "lambda.value=0.2", "seed=4"],
    ["objective.max_cells=3", "debug=small", "objective.tokens=[CD8A,CD8B]", "dataset.label=null"],
    ["debug=small", "objective.max_cells=4", "objective.tokens=genes", "dataset.label=null"],
]


@pytest.fixture
def loader():
    _register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def test_jobs_equal_hydras_own_and_share_a_composition(loader):
    words = ["sae=x8_k32,x16_k32", "hydra.job.name=fit", "hydra.launcher._target_=none"]
    master = loader.load_configuration("config", words, RunMode.MULTIRUN)
    composed = []

    def compose(*given):
        composed.append(given[-1])
        return ConfigLoaderImpl.load_sweep_config(*given)

    load = from_shared(compose)
    for job in JOBS * 2:  # Hydra asks twice: for its check, and for the job
        wanted = ConfigLoaderImpl.load_sweep_config(loader, master, job)
        assert OmegaConf.to_container(load(loader, master, job)) == OmegaConf.to_container(wanted)
    assert composed == [["lambda=ratio"], ["debug=small"]]


def test_a_value_that_no_job_can_have_is_refused_as_hydra_refuses_it(loader):
    master = loader.load_configuration("config", ["lambda.value=1,2"], RunMode.MULTIRUN)
    for load in (ConfigLoaderImpl.load_sweep_config, from_shared(ConfigLoaderImpl.load_sweep_config)):
        with pytest.raises(HydraException, match=r"Error merging override lambda\.value=many"):
            load(loader, master, ["lambda.value=many"])
        with pytest.raises(HydraException, match=r"Could not override 'sae\.new'"):
            load(loader, master, ["sae.new=1"])
