"""The tissues: several datasets, or parts of one, each with its activations, its split and its dictionaries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ...activations.joined import SomeGenes
from ...activations.tokens import TokenSource
from ...config import Config
from ...config.choices import named_dataset
from ...data.split import fit_and_test
from ...errors import SteerError, unknown
from ...models.checkpoints import model_genes
from ...pipeline.activations import Activations, activations, load_cells
from ...pipeline.context import Context
from ...pipeline.dictionary import Dictionary
from ...pipeline.recurrence import of_seed
from ..labelled import label_counts

log = logging.getLogger(__name__)
MIN_HELD = 8


@dataclass(frozen=True)
class Tissue:
    """A dataset, or the cells of one that an obs column says.

    Attributes
    ----------
    context : the command's, of this dataset
    source : its activations, the split being that of the tissue's cells
    genes : columns of its valid genes whose tokens are scored
    """

    name: str
    context: Context
    source: Activations
    genes: np.ndarray

    @cached_property
    def tokens(self) -> TokenSource:
        """The tokens that are scored."""
        every = self.source.tokens
        return every if len(self.genes) == every.n_genes else SomeGenes(every, self.genes)

    @cached_property
    def some(self) -> np.ndarray:
        """Held-out cells that features are compared and counted on, ascending."""
        config = self.context.config
        rng = np.random.default_rng([config.seed, 121])
        return np.sort(rng.permutation(self.source.test)[: config.atlas.cells])

    def dictionary(self, seed: int) -> Dictionary:
        """Return the tissue's dictionary of a seed, that of `steer train-sae` on the dataset where it is a whole one."""
        return of_seed(self.context, self.source, seed)

    def labels(self, cells: np.ndarray) -> np.ndarray:
        """Return the labels of some cells, empty where the dataset has none."""
        label = self.context.config.dataset.label
        return np.full(len(cells), "") if label is None else self.source.obs[label].astype(str).to_numpy()[cells]

    def depth(self, cells: np.ndarray) -> np.ndarray:
        """Return the total counts of some cells, on the model's genes."""
        config = self.context.config
        counts = load_cells(config, model_genes(config.model.path, config.model.revision))[cells]
        return np.asarray(counts.sum(1), np.float64).ravel()


def check(config: Config) -> None:
    """Refuse, before anything is computed, a single tissue, and a dictionary that is not trained here.

    Raises
    ------
    SteerError
        What is needed.
    """
    if config.atlas.split is None and len(config.atlas.datasets) < 2:
        raise SteerError(
            "atlas needs tissues: name datasets, as in 'atlas.datasets=[pbmc3k,gut_scp1884]', or set atlas.split to a column."
        )
    if config.sae.path is not None:
        raise SteerError("atlas trains a dictionary for every tissue: sae.path cannot be imported here.")
    if config.sae.centre != "none":
        raise SteerError("a gene-centred SAE has the means of one dataset's genes: take sae.centre=none.")


def find_tissues(context: Context) -> list[Tissue]:
    """Return the tissues, extracting what is missing, with the genes that are scored in each.

    Raises
    ------
    SteerError
        No such dataset, column or cells, or no gene that all have.
    """
    config = context.config
    if config.atlas.split is not None:
        found = _parts(context, config.atlas.split)
    else:
        found = []
        datasets = {_short(name): named_dataset(name, config.dataset, "atlas.datasets") for name in config.atlas.datasets}
        if len(datasets) < len(config.atlas.datasets):
            raise SteerError(f"atlas.datasets={config.atlas.datasets} has two files of one name: rename one.")
        for name, dataset in datasets.items():
            one = replace(context, config=replace(config, dataset=dataset))
            source = activations(one, _enough(one.config, name))
            found.append(Tissue(name, one, source, np.arange(len(source.genes))))
    shared = set.intersection(*(set(one.source.genes) for one in found))
    if not shared:
        raise SteerError("no gene of the model is in all tissues.")
    log.info("%d tissues, %d genes in all of them: %s", len(found), len(shared),
             ", ".join(f"{one.name} ({len(one.source.fit)} + {len(one.source.test)} cells, {len(one.source.genes)} genes)"
                       for one in found))  # fmt: skip
    if config.atlas.genes == "all":
        return found
    return [replace(one, genes=np.flatnonzero([gene in shared for gene in one.source.genes])) for one in found]


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".gz").removesuffix(".h5ad").removesuffix(".zarr")


def _enough(config: Config, name: str) -> Callable[[pd.DataFrame], None]:
    """Refuse a tissue of too few cells before it is extracted."""

    def look(obs: pd.DataFrame) -> None:
        fit, test = fit_and_test(obs, config.dataset)
        if len(obs) < config.atlas.min_cells or len(test) < MIN_HELD:
            raise SteerError(
                f"{name} has {len(fit)} cells to train on and {len(test)} held out; atlas needs atlas.min_cells="
                f"{config.atlas.min_cells} and {MIN_HELD} held out."
            )

    return look


def _parts(context: Context, column: str) -> list[Tissue]:
    """The parts of one dataset: the split is the dataset's own, and so no test cell of any is trained on."""
    config = context.config

    def names(obs: pd.DataFrame) -> list[str]:
        if column not in obs:
            raise unknown("column atlas.split", column, obs.columns)
        counts = label_counts(obs[column])
        values = obs[column].astype(str)
        held = values.iloc[fit_and_test(obs, config.dataset)[1]].value_counts()
        enough = [name for name, n in counts.items() if n >= config.atlas.min_cells and held.get(name, 0) >= MIN_HELD]
        some = [str(name) for name in enough[: config.atlas.max_tissues]]
        if len(some) < 2:
            have = ", ".join(f"{name} ({n})" for name, n in counts.head(12).items())
            raise SteerError(
                f"atlas.split={column} has {len(some)} values with atlas.min_cells={config.atlas.min_cells} cells, {MIN_HELD} "
                f"of them held out; two are needed. There are: {have}."
            )
        return some

    source = activations(context, names)
    values = source.obs[column].astype(str).to_numpy()
    return [
        Tissue(
            name,
            context,
            replace(source, fit=source.fit[values[source.fit] == name], test=source.test[values[source.test] == name]),
            np.arange(len(source.genes)),
        )
        for name in names(source.obs)
    ]
