"""What every step is given: the settings, and the store that it takes its inputs from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..config import Config
from ..store import Store


@dataclass(frozen=True)
class Context:
    """A config, the store of what is built, and what is worth noting of it.

    Attributes
    ----------
    notes : what a run's manifest should hold beside the artefacts, say the model's licence; shared by contexts made of this one
    """

    config: Config
    store: Store
    notes: dict[str, Any] = field(default_factory=dict)
