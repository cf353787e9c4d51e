"""What every stage is given, and what several of them read."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import Config
from ..run import Run
from ..store import Store


@dataclass(frozen=True)
class Context:
    """A stage's config, the store that it takes its inputs from, and the run folder that it reports to."""

    config: Config
    store: Store
    run: Run
