"""Which device a process takes."""

from __future__ import annotations

import pytest
import torch

from steerpipe import device
from steerpipe.device import mixed_precision, pick_device
from steerpipe.errors import SteerError


def test_parts_of_one_job_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(pick_device("auto", part)) for part in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(pick_device("auto")) == "cuda"
    assert str(pick_device("cpu", 1)) == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SteerError, match="torch sees no CUDA GPU here"):
        pick_device("cuda:1")


def test_a_cpu_takes_bf16_while_training_and_only_with_instructions_for_it(monkeypatch):
    x, cpu = torch.ones(4, 4), torch.device("cpu")

    def product(**options):
        with mixed_precision(cpu, **options):
            return (x @ x).dtype

    for has in (True, False):
        monkeypatch.setattr(device, "fast_bf16", lambda has=has: has)
        assert product(training=True) == (torch.bfloat16 if has else torch.float32)
        assert product() == torch.float32
