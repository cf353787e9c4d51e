"""The notebook's door, `import steerpipe as sp`: AnnData in, AnnData out, by the same steps as the commands."""

from .cells import embed, features, hold_out, steer
from .fits import evaluate, fit, train_sae
from .objects import SAE, Model, Recipe, load_model, load_recipe, load_sae

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
