"""steerpipe: steer single-cell foundation models with sparse autoencoder features.

`import steerpipe as sp` in a notebook: docs/python.md. They are loaded when one is asked for: `steer --help` does not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "SAE",
    "Model",
    "Recipe",
    "embed",
    "evaluate",
    "features",
    "fit",
    "hold_out",
    "load_model",
    "load_recipe",
    "load_sae",
    "steer",
    "train_sae",
]

if TYPE_CHECKING:
    from .api import (
        SAE,
        Model,
        Recipe,
        embed,
        evaluate,
        features,
        fit,
        hold_out,
        load_model,
        load_recipe,
        load_sae,
        steer,
        train_sae,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import api

        # all at once: loading them makes the subpackage `evaluate` an attribute, which the function of that name takes over
        globals().update({one: getattr(api, one) for one in __all__})
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
