"""The model's activations over a dataset."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..activations.extract import OnlineStreams, extract
from ..activations.plan import Plan, PlannedBlock, check_disk, make_plan
from ..activations.shards import BYTES, Shards, layer_folder
from ..activations.tokens import TokenPolicy, TokenSource, affordable_policy
from ..config import Config, as_dict
from ..data import datasets
from ..data.cells import CellSource
from ..data.gene_names import INDEX
from ..data.genes import gene_list
from ..data.split import fit_and_test
from ..device import pick_device
from ..digest import array_digest, file_digest
from ..errors import SteerError
from ..models.aido_cell import AidoCell
from ..models.base import CellModel, Sizes
from ..models.checkpoints import load_model, model_digest, model_folder, model_genes, provenance, read_config, released_arch
from ..pretraining.thinning import log_cp10k
from .artefact import Artefact, built, shared
from .checkpoint import introduce
from .context import Context
from .null_plan import NullFits, NullPlan, null_plan

log = logging.getLogger(__name__)
VERSION = 2


@dataclass(frozen=True)
class Activations:
    """A dataset's residual streams, with what is needed to read them.

    Attributes
    ----------
    obs : labels, one row a cell
    genes : the valid genes' symbols
    policy : which gene tokens of a cell there are
    fit, test : int64, ascending positions of the cells that fits may see, and of the test cells
    layer : 0-based block whose output they are
    open : opens the gene tokens, on disk or computed when asked for
    """

    artefact: Artefact
    obs: pd.DataFrame
    genes: list[str]
    policy: TokenPolicy
    fit: np.ndarray
    test: np.ndarray
    layer: int
    open: Callable[[], TokenSource]

    @cached_property
    def tokens(self) -> TokenSource:
        """The gene tokens: opened when they are asked for, since online ones need the model."""
        return self.open()

    @property
    def means(self) -> np.ndarray:
        """float32 (N, D): each cell's mean stream over the valid genes, of stored activations."""
        return np.asarray(np.load(layer_folder(self.artefact.path, self.layer) / "mean.npy"))

    @property
    def split_key(self) -> str:
        """What identifies the split in keys: two ways to say the same one share all that is built on it."""
        return array_digest(self.test)

    @property
    def fit_sample(self) -> np.ndarray:
        """About as many of the fit's cells as there are test cells, for a figure beside theirs; all where there are none."""
        return self.fit[:: max(1, len(self.fit) // len(self.test))] if len(self.test) else self.fit


def load_steered_model(config: Config) -> CellModel:
    """Load the configured model onto the configured device."""
    device = pick_device(config.device, config.extract.part)
    model = load_model(config.model.path, config.model.revision, device=device)
    if config.model.depth_target is not None:
        if not isinstance(model, AidoCell):
            raise SteerError(f"{config.model.path} has no depth tokens: take model.depth_target=null.")
        depth = replace(model.arch.depth, goal=config.model.depth_target)
        model.arch = replace(model.arch, depth=depth)
    return model


def layer_index(config: Config) -> int:
    """Return the 0-based steering layer; -1 counts from the end."""
    return _layer(config, "layer.index", config.layer.index)


def stored_layers(config: Config) -> list[int]:
    """Return every layer that one pass stores, ascending."""
    further = [_layer(config, "extract.layers", index) for index in config.extract.layers]
    return sorted({layer_index(config), *further})


def load_cells(config: Config, genes: tuple[str, ...]) -> CellSource:
    """Open the configured dataset in a model's gene order."""
    return CellSource(datasets.load(config.dataset), genes, config.dataset)


def measured_expression(cells: CellSource, positions: np.ndarray) -> np.ndarray:
    """Return measured log1p CP10K of some cells, float32 (n, G_valid)."""
    return log_cp10k(cells[positions].toarray())[:, cells.valid]


def activations(context: Context, check: Callable[[pd.DataFrame], object] = lambda obs: None) -> Activations:
    """Return the dataset's activations, extracting them when they are missing.

    `check` is called with the cells' obs before anything is computed: a wrong label should not cost an extraction.
    """
    config = context.config
    online = config.activations == "online"
    digest = model_digest(config.model.path, config.model.revision)
    introduce(context, digest)

    def build(folder: Path) -> None:
        genes = model_genes(config.model.path, config.model.revision)
        cells = load_cells(config, genes)
        fit_and_test(cells.obs, config.dataset)  # a wrong column is said here, too
        check(cells.obs)
        _describe(cells, folder)
        # the licence goes where the activations go
        (folder / "model.json").write_text(json.dumps(provenance(config.model.path, config.model.revision), indent=1))
        if not online:
            _extract(config, cells, folder)

    artefact = built(context, "extract", build, **_key(config, digest))
    path = artefact.path
    obs, genes = pd.read_parquet(path / "obs.parquet"), (path / "genes.txt").read_text().split()
    if (lent := datasets.LENT.get(config.dataset.name)) is not None:
        # labels of a running Python may have changed since: the stream does not depend on them, what is built on it may
        obs = _labels(lent.obs)
        artefact = replace(artefact, key=f"{artefact.key}-{_labels_key(config, obs)}")

    def tokens() -> TokenSource:
        return _online(config) if online else Shards(path, layer_index(config))

    policy = _policy(config, _arch(config), len(obs), len(genes))
    return Activations(artefact, obs, genes, policy, *fit_and_test(obs, config.dataset), layer_index(config), tokens)


def extract_part(context: Context) -> None:
    """Extract one of several parts into the folder that the joining run will publish."""
    config = context.config
    digest = model_digest(config.model.path, config.model.revision)
    introduce(context, digest)
    folder = shared(context, "extract", **_key(config, digest))
    if folder is None:
        log.info("the whole extraction is in the store already")
        return
    assert config.extract.part is not None
    cells = load_cells(config, model_genes(config.model.path, config.model.revision))
    whole = _extract(config, cells, folder, (config.extract.part, config.extract.parts))
    rest = "all shards are there: the same command without extract.part joins them" if whole else "others are still to come"
    log.info("part %d of %d done; %s", config.extract.part, config.extract.parts, rest)


def plan(context: Context) -> Plan:
    """Return what the extraction would cost; one block is timed on the device."""
    config = context.config
    return _plan(config, load_cells(config, _planned_genes(config)), device=pick_device(config.device))


def planned_nulls(config: Config, found: Plan, fits: NullFits) -> NullPlan | None:
    """Return what a command's nulls would cost beside a planned extraction; None where no block was timed."""
    if found.seconds is None:
        return None
    obs = load_cells(config, _planned_genes(config)).obs
    above = _arch(config).num_hidden_layers - layer_index(config) - 1
    return null_plan(config, fits, obs, block_seconds=_block_seconds(config, found.seconds, found.cells), blocks_above=above)


def planned_block(config: Config, found: Plan) -> PlannedBlock:
    """Return the block that a timed plan has timed, and what is run through it."""
    assert found.seconds is not None
    cells = load_cells(config, _planned_genes(config))
    arch, genes = _arch(config), tuple(cells.alignment.genes[i] for i in cells.valid)
    above = arch.num_hidden_layers - layer_index(config) - 1
    return PlannedBlock(arch, genes, _block_seconds(config, found.seconds, found.cells), above)


def _block_seconds(config: Config, seconds: float, n_cells: int) -> float:
    """The time of one block over one cell, of that of an extraction."""
    return seconds / (n_cells * (max(stored_layers(config)) + 1))


def _planned_genes(config: Config) -> tuple[str, ...]:
    """The model's genes; those of released checkpoints are known, so that a plan fetches nothing."""
    if released_arch(config.model.path) is not None:
        return tuple(gene_list())
    return model_genes(config.model.path, config.model.revision)


def _plan(config: Config, cells: CellSource, **options: Any) -> Plan:
    arch = _arch(config)
    policy = _policy(config, arch, cells.shape[0], len(cells.valid))
    subset = None
    if config.model.tokens == "expressed" or not arch.fixed:
        some = cells[: min(512, cells.shape[0])]
        sizes = np.asarray((some[:, cells.valid] > 0).sum(1)).ravel()
        most = len(cells.valid) if arch.fixed else arch.max_position_embeddings
        subset = int(np.ceil(np.minimum(sizes, most).mean()))
    layers, dtype = stored_layers(config), config.extract.dtype
    return make_plan(arch, cells.shape[0], len(cells.valid), layers, policy, dtype, subset_tokens=subset, **options)


def _extract(config: Config, cells: CellSource, folder: Path, part: tuple[int, int] = (0, 1)) -> bool:
    cost = _plan(config, cells)
    check_disk(cost, folder)
    model = load_steered_model(config)
    matched = cells.alignment
    names = "" if cells.names_from == INDEX else f"; names: var['{cells.names_from}']"
    log.info(
        "%d cells; %d of the model's %d genes found (%d columns by symbol, %d by alias or Ensembl id%s); tokens: %s, %.3g GB",
        cells.shape[0], len(cells.valid), len(model.genes), matched.by_symbol, matched.by_alias, names,
        cost.policy, cost.bytes / 1e9,
    )  # fmt: skip
    return extract(
        model,
        cells,
        cells.valid,
        stored_layers(config),
        folder,
        policy=_policy(config, model.arch, cells.shape[0], len(cells.valid)),
        dtype=config.extract.dtype,
        shard_tokens=config.extract.shard_tokens,
        batch_size=config.model.batch_size,
        subset=config.model.tokens == "expressed",
        part=part,
    )


def _describe(cells: CellSource, folder: Path) -> None:
    """Write labels and matched genes."""
    _labels(cells.obs).to_parquet(folder / "obs.parquet", index=False)
    (folder / "genes.txt").write_text("\n".join(cells.alignment.genes[i] for i in cells.valid) + "\n")
    cells.table.to_csv(folder / "genes.csv", index=False)


def _labels(obs: pd.DataFrame) -> pd.DataFrame:
    """Return every column of obs as text, the cells' names first."""
    found = obs.astype(str)
    found.insert(0, "cell" if "cell" not in found else "cell name", obs.index.astype(str))
    return found.reset_index(drop=True)


def _labels_key(config: Config, obs: pd.DataFrame) -> str:
    """What identifies the columns that the settings name: all that is read of obs."""
    dataset = config.dataset
    named = {dataset.label, dataset.batch, dataset.test, dataset.perturbation, config.contrast.column}
    whole = hashlib.sha256()
    for name in sorted(str(name) for name in named & set(obs)):
        whole.update(f"{name}\n".encode() + pd.util.hash_pandas_object(obs[name], index=False).to_numpy().tobytes())
    return whole.hexdigest()[:8]


def _online(config: Config) -> OnlineStreams:
    model = load_steered_model(config)
    cells = load_cells(config, model.genes)
    policy = _policy(config, model.arch, cells.shape[0], len(cells.valid))
    options: dict[str, Any] = {"batch_size": config.model.batch_size, "subset": config.model.tokens == "expressed"}
    return OnlineStreams(model, cells, cells.valid, layer_index(config), policy, **options)


def _policy(config: Config, arch: Sizes, n_cells: int, n_valid: int) -> TokenPolicy:
    wanted, seed = config.extract.tokens, config.extract.seed
    if not arch.fixed:
        n_valid = min(n_valid, arch.max_position_embeddings)
        if config.model.tokens == "expressed":
            raise SteerError(f"{config.model.path} reads a cell's expressed genes as it was trained: take model.tokens=all.")
    if config.model.tokens == "expressed":
        if wanted in ("valid", "sample"):
            raise SteerError(f"extract.tokens={wanted} needs tokens that model.tokens=expressed never runs; use expressed.")
        return TokenPolicy("expressed", seed=seed)
    if not arch.fixed and wanted in ("auto", "valid", "expressed"):
        # all of a cell's tokens are of expressed genes
        token = arch.hidden_size * BYTES[config.extract.dtype] * len(stored_layers(config))
        budget = config.extract.max_bytes if wanted == "auto" else float("inf")
        policy = affordable_policy(n_cells, n_valid, token, budget, seed=seed)
        return policy if policy.kind == "sample" else TokenPolicy("expressed", seed=seed)
    if wanted == "auto":
        token = arch.hidden_size * BYTES[config.extract.dtype] * len(stored_layers(config))
        return affordable_policy(n_cells, n_valid, token, config.extract.max_bytes, seed=seed)
    return TokenPolicy(wanted, config.extract.n_tokens if wanted == "sample" else 0, seed)


def _key(config: Config, digest: str) -> dict[str, Any]:
    """What identifies an extraction in the store, with the digest of the model's files."""
    dataset = as_dict(config.dataset)
    # every column of obs is stored, whichever is looked at, and every cell, whatever it is for
    for name in ("groups", "label", "batch", "test", "test_share", "split_seed", "perturbation", "control", "held"):
        dataset.pop(name)
    inputs = [digest]
    if config.dataset.path is None:  # one of ours, whose names are in the index
        dataset = {name: value for name, value in dataset.items() if name != "gene_column" or value is not None}
    elif Path(config.dataset.path).exists():
        inputs.append(file_digest(Path(config.dataset.path)))
        dataset.pop("path")
    stored = as_dict(config.extract)
    for name in ("parts", "part", "plan", "plan_of", "check_cells", "layers"):  # who did the work does not change it
        stored.pop(name)
    for name, reader in {"n_tokens": ("sample",), "seed": ("sample", "auto"), "max_bytes": ("auto",)}.items():
        if config.extract.tokens not in reader:
            stored.pop(name)
    settings = {
        "dataset": dataset,
        "layers": [layer_index(config)] if config.activations == "online" else stored_layers(config),
        "extract": stored,
        "model": {"tokens": config.model.tokens, "depth_target": config.model.depth_target},
        "activations": config.activations,
    }
    return {"version": VERSION, "reads": settings, "inputs": inputs}


def _arch(config: Config) -> Sizes:
    """The model's sizes; those of released checkpoints are known, so that a plan fetches nothing."""
    return released_arch(config.model.path) or read_config(model_folder(config.model.path, config.model.revision))


def _layer(config: Config, name: str, index: int) -> int:
    n = _arch(config).num_hidden_layers
    found = index if index >= 0 else n + index
    if not 0 <= found < n:
        raise SteerError(f"{name}={index} does not exist: the model has blocks 0 to {n - 1}.")
    return found
