"""What a circuit study keeps: the cells' streams at every layer, and the responses of each layer's sources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ...activations.extract import full_streams
from ...config import Config
from ...digest import array_digest
from ...errors import SteerError
from ...models.base import n_ids
from ...models.checkpoints import has_head, model_folder, read_config
from ...pipeline.activations import Activations, activations, load_cells, load_steered_model
from ...pipeline.artefact import Artefact, built, save_arrays, shared
from ...pipeline.checkpoint import check_tokens
from ...pipeline.context import Context
from ...pipeline.dictionary import Dictionary, dictionary
from ...pipeline.experiment import Experiment, prepare
from ...pipeline.fit import Recipe, fit
from ...progress import add_task, progress
from ...steering.contrast_streams import token_ids
from . import ablation, at_layer
from .network import LayerCodes, LayeredCells, Level

VERSION = 1


@dataclass(frozen=True)
class Circuit:
    """What every table of a study reads.

    Attributes
    ----------
    network : the cells, with a dictionary a layer
    source : the activations that the dictionaries were trained on
    dictionaries : {layer: dictionary}
    cells : int64 (N,), their positions in the dataset
    streams : the artefact of their streams
    recipe, experiment : of circuits.recipe, at the first layer
    """

    context: Context
    network: LayeredCells
    source: Activations
    dictionaries: dict[int, Dictionary]
    cells: np.ndarray
    streams: Artefact
    recipe: Recipe | None
    experiment: Experiment | None

    @property
    def layers(self) -> list[int]:
        """The layers, ascending."""
        return self.network.layers

    @property
    def genes(self) -> list[str]:
        """The valid genes' symbols."""
        return self.source.genes


def check(config: Config) -> None:
    """Refuse, before anything is computed, settings under which there is no circuit.

    Raises
    ------
    SteerError
        A layer that the model does not have, one dictionary for several layers, or tokens that are not all run.
    """
    circuits = config.circuits
    check_tokens(config)
    folder = model_folder(config.model.path, config.model.revision)
    n = read_config(folder).num_hidden_layers
    if circuits.layers[-1] >= n:
        raise SteerError(f"circuits.layers={circuits.layers}: the model has blocks 0 to {n - 1}.")
    if len(circuits.layers) == 1 and not has_head(folder):
        raise SteerError("one layer of a model without an output head has nowhere to go: name two layers in circuits.layers.")
    if config.model.tokens != "all":
        raise SteerError("circuits run every gene of a cell: take model.tokens=all.")
    if config.sae.path is not None and not circuits.paths:
        raise SteerError("sae.path is one dictionary, and circuits need one a layer: name them in circuits.paths.")
    if circuits.recipe is not None and (config.objective.tokens != "genes" or config.objective.mode != "multiply"):
        raise SteerError("circuits.recipe needs objective.tokens=genes and objective.mode=multiply: its features are scaled.")


def prepared(context: Context) -> Circuit:
    """Return the cells, their streams at every layer and the dictionaries, building what is missing."""
    config, circuits = context.config, context.config.circuits
    check(config)
    contexts = {layer: replace(context, config=at_layer(config, layer)) for layer in circuits.layers}
    first = contexts[circuits.layers[0]]
    experiment = recipe = None
    if circuits.recipe is None:
        source = activations(first)
        cells = source.test if len(source.test) else source.fit
    else:
        experiment = prepare(first, scored=True)
        recipe = fit(experiment, first.config.objective.named(circuits.recipe))
        source, cells = experiment.activations, experiment.split.source_held
    rng = np.random.default_rng([circuits.seed, 62])
    cells = np.sort(rng.choice(cells, min(circuits.max_cells, len(cells)), replace=False))
    if len(cells) < circuits.min_cells:
        raise SteerError(f"{len(cells)} held-out cells are fewer than circuits.min_cells={circuits.min_cells}: lower it.")
    dictionaries = {layer: dictionary(one, source if one is first else activations(one)) for layer, one in contexts.items()}
    part = None if circuits.part is None else (circuits.part, circuits.parts)
    own_device = replace(config, extract=replace(config.extract, part=circuits.part, parts=circuits.parts))
    model = load_steered_model(config if part is None else own_device)

    def build(folder: Path) -> None:
        source_cells = load_cells(config, model.genes)
        counts, ids = source_cells[cells], token_ids(model, source_cells, cells)
        if ids is not None:
            save_arrays(folder / "token_genes.npy", ids)
        out: dict[int, np.ndarray] = {}
        done = 0
        shape = (len(cells), n_ids(model) if ids is None else ids.shape[1], model.arch.hidden_size)
        for _, batch in full_streams(model, counts, circuits.layers, batch_size=config.model.batch_size):
            for layer, stream in batch.items():
                file = folder / f"layer_{layer}.npy"
                if layer not in out:
                    out[layer] = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
                out[layer][done : done + len(stream), : stream.shape[1]] = stream.float().cpu().numpy()
            done += len(stream)

    digest = array_digest(cells.astype(np.int64))
    settings = {"cells": digest, "layers": list(circuits.layers)}
    streams = built(context, "circuit-streams", build, version=VERSION, reads=settings, parents=[source.artefact])
    device = next(model.parameters()).device
    position = {gene: i for i, gene in enumerate(model.genes)}
    ids_file = streams.path / "token_genes.npy"
    network = LayeredCells(
        model,
        {layer: np.load(streams.path / f"layer_{layer}.npy", mmap_mode="r") for layer in circuits.layers},
        {layer: one.sae.to(device) for layer, one in dictionaries.items()},
        torch.tensor([position[gene] for gene in source.genes], device=device),
        config.model.batch_size,
        np.load(ids_file) if ids_file.is_file() else None,
    )
    return Circuit(context, network, source, dictionaries, cells, streams, recipe, experiment)


@dataclass(frozen=True)
class Responses:
    """The responses of one layer's sources, on disk.

    Attributes
    ----------
    sources : int64 (I,)
    firing : float64 (F,), share of the tokens at which each feature of the layer fires
    clean : {level: float32 (N, .)}, readings without any edit, run on from the layer
    """

    layer: int
    folder: Path
    sources: np.ndarray
    firing: np.ndarray
    clean: dict[Level, np.ndarray]

    def of(self, source: int) -> Iterator[tuple[ablation.Trial, ablation.Response]]:
        """Yield a source's trials (without their vectors) and what they change, the ablation first."""
        with np.load(self.folder / f"source_{source}.npz") as file:
            for number, (kind, feature, dose) in enumerate(json.loads(str(file["trials"]))):
                changes = {level: file[f"{number}_{level}"] for level in self.clean}
                yield (
                    ablation.Trial(kind, feature, dose, torch.empty(0)),
                    ablation.Response(file[f"{number}_cells"], changes),
                )


def responses(circuit: Circuit, layer: int, sources: np.ndarray) -> Responses | None:
    """Return the responses of a layer's sources, running those that are missing; None where other parts are still at theirs."""
    config, network = circuit.context.config.circuits, circuit.network
    levels = [layer, *network.levels(layer)]
    parents = [circuit.streams, *(circuit.dictionaries[at].artefact for at in levels if isinstance(at, int))]
    settings = {
        "layer": layer,
        "sources": [int(source) for source in sources],
        "n_random": config.n_random,
        "dose": config.dose,
        "seed": config.seed,
    }

    def build(folder: Path) -> None:
        run(circuit, layer, sources, folder)

    context = circuit.context
    if config.part is not None:
        folder = shared(context, "circuit", version=VERSION, reads=settings, inputs=[one.key for one in parents])
        if folder is not None:
            run(circuit, layer, sources[config.part :: config.parts], folder)
            if not all((folder / f"source_{source}.npz").is_file() for source in sources):
                return None
    path = built(context, "circuit", build, version=VERSION, reads=settings, parents=parents).path
    with np.load(path / "clean.npz") as file:
        clean: dict[Level, np.ndarray] = {level: file[str(level)] for level in network.levels(layer)}
    return Responses(layer, path, sources, np.load(path / "firing.npy"), clean)


def run(circuit: Circuit, layer: int, sources: np.ndarray, folder: Path) -> None:
    """Write source_N.npz of each source that is not there yet; a killed run goes on with the next one."""
    config, network = circuit.context.config.circuits, circuit.network
    missing = [int(source) for source in sources if not (folder / f"source_{source}.npz").is_file()]
    if not missing and (folder / "clean.npz").is_file():
        return
    codes, clean = LayerCodes(network, layer), network.clean(layer)
    activity = codes.activity()
    save_arrays(folder / "clean.npz", {str(level): value.cpu().numpy() for level, value in clean.items()})
    save_arrays(folder / "firing.npy", codes.firing())
    with progress() as bar:
        task = add_task(bar, f"layer {layer}", len(missing))
        for source in missing:
            some = ablation.trials(
                network, layer, source, activity, n_random=config.n_random, dose=config.dose, seed=config.seed
            )
            arrays = {"trials": np.array(json.dumps([trial[:3] for trial in some]))}
            for number, trial in enumerate(some):
                found = ablation.respond(network, layer, codes, trial, clean)
                arrays[f"{number}_cells"] = found.cells
                arrays |= {f"{number}_{level}": change for level, change in found.changes.items()}
            save_arrays(folder / f"source_{source}.npz", arrays)
            bar.advance(task)
