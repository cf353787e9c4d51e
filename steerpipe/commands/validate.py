"""`steer validate`: whether a config's model, data, labels and dictionary fit together; nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..config import Config
from ..data import datasets
from ..data.cells import CellSource
from ..data.contrast import split_contrast
from ..device import pick_device
from ..errors import SteerError
from ..models.checkpoints import model_genes
from ..models.hub import is_hub_id
from ..pipeline.activations import layer_index, stored_layers
from ..pipeline.dictionary import check_dictionary


def problems(config: Config) -> list[str]:
    """Return one line for each thing that is wrong. Reads the dataset's counts; a hub model is not fetched."""
    found: list[str] = []

    def ask(question: Callable[[], object]) -> object:
        try:
            return question()
        except SteerError as error:
            found.append(str(error))
            return None

    ask(partial(pick_device, config.device))
    ask(partial(layer_index, config))
    ask(partial(stored_layers, config))
    cells = ask(partial(datasets.load, config.dataset))
    if cells is not None:
        ask(lambda: split_contrast(cells.obs, config.contrast, config.dataset))  # type: ignore[attr-defined]
    if not is_hub_id(config.model.path):
        ask(partial(check_dictionary, config))
        genes = ask(partial(model_genes, config.model.path, config.model.revision))
        if cells is not None and genes is not None:
            ask(lambda: CellSource(cells, genes, config.dataset))  # type: ignore[arg-type]
    return list(dict.fromkeys(found))
