"""Which device a process takes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

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


HELD = """
import numpy as np
from steerpipe.device import give_memory_back
resident = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) // 1024
for _ in range(3):
    np.ones(3_000_000)  # 24 MB: as it goes, glibc takes blocks of that size for ordinary ones
before, large, small = resident(), [], []
for _ in range(100):
    large.append(np.ones(250_000))  # 2 MB
    small.append(np.ones(25_000))
large.clear()
if {give}:
    assert give_memory_back()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("give", "kept"), [(True, (-40, 60)), (False, (150, 300))])
def test_large_blocks_go_back_to_the_system(give, kept):
    code = HELD.format(give=give)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert kept[0] <= int(done.stdout) <= kept[1]
