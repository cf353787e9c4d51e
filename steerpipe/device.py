"""Where torch computes, and in what precision."""

from __future__ import annotations

import contextlib
import ctypes
import functools

import torch

from .errors import SteerError


def give_memory_back() -> bool:
    """Hand what was freed back to the system, wherever in the heap it lies; says whether this C library can.

    glibc keeps freed blocks between smaller ones that live on: training on two million tokens grew by 1 MB a step, to 1.4 GB,
    of which 0.4 were in use. A low threshold for mmap would do it at every free, and fetch each page anew.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    trim(0)
    return True


def pick_device(name: str = "auto", part: int | None = None) -> torch.device:
    """Return the device of a name; auto is a GPU where there is one.

    Parameters
    ----------
    part : which of several processes this is: with auto, they take the machine's GPUs in turn

    Raises
    ------
    SteerError
        The device is not on this machine.
    """
    if name == "auto" and part is not None and torch.cuda.is_available():
        name = f"cuda:{part % torch.cuda.device_count()}"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SteerError(f"device={name}, but torch sees no CUDA GPU here; use device=auto or device=cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise SteerError("device=mps, but torch sees no Apple GPU here; use device=auto or device=cpu.")
    return torch.device(name)


def mixed_precision(device: torch.device, *, training: bool = False) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast on a GPU, and on a CPU with bf16 instructions while training.

    Any other CPU stays in float32: without those instructions bf16 is many times slower. What is measured stays there on
    every CPU, so that figures do not depend on which one it was.
    """
    if device.type == "cuda" or (training and device.type == "cpu" and fast_bf16()):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@functools.cache
def fast_bf16() -> bool:
    """Return whether this CPU multiplies bf16 matrices in hardware: a training step of `mini` takes two thirds of the time."""
    found: bool = torch.cpu._is_avx512_bf16_supported()
    return found


@functools.cache
def fast_int8() -> bool:
    """Return whether this CPU multiplies int8 matrices in hardware (VNNI): four or more times as fast as float32."""
    found: bool = torch.cpu._is_vnni_supported()
    return found
