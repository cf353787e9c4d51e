"""Where torch computes, and in what precision."""

from __future__ import annotations

import contextlib
import functools

import torch

from .errors import SteerError


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


def mixed_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast on a GPU. A CPU stays in float32: without bf16 instructions bf16 is many times slower there."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


@functools.cache
def fast_int8() -> bool:
    """Return whether this CPU multiplies int8 matrices in hardware (VNNI): four or more times as fast as float32."""
    found: bool = torch.cpu._is_vnni_supported()
    return found
