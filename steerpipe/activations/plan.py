"""What an extraction would cost, before anything runs."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..device import mixed_precision
from ..errors import SteerError
from ..models.aido_cell import ArchConfig, Block
from ..models.base import Sizes
from .shards import BYTES
from .tokens import TokenPolicy


class PlannedBlock(NamedTuple):
    """One block of a planned extraction, from which what a study costs is told.

    arch : the model's sizes
    genes : symbols of the genes that the dataset has
    seconds : of one block over one cell
    above : blocks above the steered layer
    """

    arch: Sizes
    genes: tuple[str, ...]
    seconds: float
    above: int


@dataclass(frozen=True)
class Plan:
    """The cost of storing some layers of a dataset.

    Attributes
    ----------
    cells, tokens_per_cell : gene tokens stored of a cell, at the most; policy names the choice
    bytes : on disk, all layers
    flops : of blocks 0..L and the embedding over all cells (2 per multiply-add); see forward_flops
    seconds : from one timed block on this device; None when it was not timed
    source_bytes : on disk for `steer fit`: the whole streams of one source cell
    """

    cells: int
    policy: str
    tokens_per_cell: int
    tokens: int
    layers: int
    bytes: int
    flops: float
    seconds: float | None
    source_bytes: int

    def lines(self) -> str:
        """Return the plan as people read it."""
        time_left = "not timed" if self.seconds is None else f"{duration(self.seconds)} on this device, from one timed block"
        return "\n".join(
            [
                f"cells     {self.cells:,}",
                f"tokens    {self.tokens:,} ({self.tokens_per_cell:,} a cell: {self.policy})",
                f"disk      {self.bytes / 1e9:.3g} GB for {self.layers} layer(s)",
                f"FLOP      {self.flops:.3g}",
                f"time      {time_left}",
                f"fit       keeps {self.source_bytes / 1e6:.3g} MB a cell of the contrast (model.contrast_cells caps them)",
            ]
        )

    def row(self) -> dict[str, float | int | str]:
        """Return the plan as flat numbers."""
        return {f"plan/{name}": value for name, value in asdict(self).items() if value is not None}


def make_plan(
    arch: Sizes,
    n_cells: int,
    n_valid: int,
    layers: list[int],
    policy: TokenPolicy,
    dtype: str,
    *,
    subset_tokens: int | None = None,
    device: torch.device | None = None,
) -> Plan:
    """Plan an extraction; with a device, one block is timed on it for the estimate.

    Parameters
    ----------
    subset_tokens : genes that a cell is run on, where that is not all of them
    """
    S = 2 + (arch.max_position_embeddings if subset_tokens is None else subset_tokens)
    per_cell = policy.most(n_valid)
    if subset_tokens is not None:
        per_cell = min(per_cell, subset_tokens)
    blocks = max(layers) + 1
    seconds = None if device is None else n_cells * blocks * time_block(arch, S, device)
    return Plan(
        cells=n_cells,
        policy=str(policy),
        tokens_per_cell=per_cell,
        tokens=n_cells * per_cell,
        layers=len(layers),
        bytes=n_cells * per_cell * arch.hidden_size * BYTES[dtype] * len(layers),
        flops=n_cells * forward_flops(arch, S, blocks),
        seconds=seconds,
        source_bytes=(S if not arch.fixed else arch.max_position_embeddings + 2) * arch.hidden_size * 4,
    )


def forward_flops(arch: Sizes, n_tokens: int, n_blocks: int) -> float:
    """FLOP of one cell: n_blocks * (2 S (4 D^2 + M D I) + 4 S^2 D) + the embedding's.

    M is 3 for AIDO.Cell's gated MLP, whose embedding costs 2 S (100 + 100^2 + 100 D); else M is 2, and the embedding's 2 S D^2
    are at the most.
    """
    S, D, inner = n_tokens, arch.hidden_size, arch.intermediate_size
    ours = isinstance(arch, ArchConfig)
    block = 2 * S * (4 * D * D + (3 if ours else 2) * D * inner) + 4 * S * S * D
    return float(n_blocks * block + 2 * S * (100 + 100 * 100 + 100 * D if ours else D * D))


def time_block(arch: Sizes, n_tokens: int, device: torch.device) -> float:
    """Return the seconds that one block with random weights takes for one cell (at the most 4,096 tokens are timed)."""
    timed = min(n_tokens, 4096)
    block = _block(arch).to(device).eval()
    x = torch.randn(1, timed, arch.hidden_size, device=device)
    best = float("inf")
    with torch.no_grad(), mixed_precision(device):
        for _ in range(3):
            start = time.perf_counter()
            block(x).sum().item()  # a GPU answers only when it is done
            best = min(best, time.perf_counter() - start)
    return best * forward_flops(arch, n_tokens, 1) / forward_flops(arch, timed, 1)


def _block(arch: Sizes) -> nn.Module:
    """A block of random weights: AIDO.Cell's, or one of BERT's shape, as of every other model here."""
    if isinstance(arch, ArchConfig):
        return Block(arch)
    return nn.TransformerEncoderLayer(arch.hidden_size, arch.num_attention_heads, arch.intermediate_size, batch_first=True)


def check_disk(plan: Plan, folder: Path) -> None:
    """Refuse an extraction that the disk cannot hold; shards that are already there count.

    Raises
    ------
    SteerError
        With what is needed, what is free, and what to change.
    """
    there = sum(file.stat().st_size for file in folder.rglob("streams_*.npy"))
    needed, free = plan.bytes - there, shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise SteerError(
            f"extraction needs {needed / 1e9:.3g} GB and {folder} has {free / 1e9:.3g} GB free; set extract.tokens=sample "
            "extract.n_tokens=256, dataset.max_cells, outputs=/bigger/disk, or train with activations=online."
        )


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
