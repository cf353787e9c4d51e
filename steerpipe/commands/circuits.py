"""`steer circuits`: what features of one layer do at later layers and at the head, beside their nulls."""

from __future__ import annotations

from ..stages.common import Context
from ..studies.circuits.study import study


def main(context: Context) -> None:
    """Run it."""
    study(context)
