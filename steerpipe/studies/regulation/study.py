"""The study: regulons, features and held-out cells to effects, which are kept, and to what is printed and drawn."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ...activations.extract import full_streams
from ...activations.plan import duration
from ...data.cells import CellSource
from ...data.regulons import Regulon, find_regulons, load_regulons
from ...errors import SteerError, unknown
from ...interpret.programs import gene_sets, participation_ratio
from ...models.checkpoints import has_head, model_folder, model_genes
from ...pipeline.activations import layer_index, load_cells, load_steered_model
from ...pipeline.annotation import Inputs, inputs
from ...pipeline.artefact import Artefact, built
from ...pipeline.checkpoint import require_fixed
from ...pipeline.context import Context
from ...pipeline.feature_activity import activity
from ...pipeline.pipeline import Pipeline
from ...plot.provenance import model_phrase, sae_phrase
from ...progress import track
from ..findings import Findings
from . import arms as arms_module
from . import figure, table
from .arms import Design
from .effects import SteeredCells, codes_of, gene_codes
from .matching import coexpression

log = logging.getLogger(__name__)
VERSION = 1
SHOWN = [
    "tf", "features", "targets", "matched", "felt", "forward", "reverse", "asymmetry", "asymmetry_q", "auroc",
    "auroc_unmatched", "auroc_q", "sign_agreement", "regulates",
]  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """What is asked, and of which dictionary.

    Attributes
    ----------
    counts : the dataset in the model's gene order
    regulons : of every TF with enough targets in the panel; chosen: those that are tested
    parent : the artefact of the features' activity; M: float32 (F, G), mean |code| over the cells that fits may see
    """

    context: Context
    counts: CellSource
    given: Inputs
    regulons: list[Regulon]
    chosen: list[Regulon]
    parent: Artefact
    M: np.ndarray

    @cached_property
    def members(self) -> dict[str, np.ndarray]:
        """TF -> bool (F,): the features whose gene set has it."""
        limits = self.context.config.annotate
        sets = gene_sets(self.M, participation_ratio(self.M), smallest=limits.min_genes, largest=limits.max_genes).tocsc()
        return {one.tf: sets[:, [one.column]].toarray()[:, 0] > 0 for one in self.chosen}

    @cached_property
    def features(self) -> dict[str, np.ndarray]:
        """TF -> the features that are steered, strongest first; none for some."""
        n = self.context.config.regulation.max_features
        return {one.tf: arms_module.choose_features(self.M, self.members[one.tf], one.column, n) for one in self.chosen}

    @cached_property
    def cells(self) -> np.ndarray:
        """int64, ascending positions of the held-out cells that are steered."""
        config, test = self.context.config.regulation, self.given.source.test
        rng = np.random.default_rng([config.seed, 40])
        return np.sort(rng.choice(test, min(config.max_cells, len(test)), replace=False))

    @property
    def design(self) -> Design:
        """What is steered, and how often."""
        config = self.context.config.regulation
        own = config.push == "own"
        return Design(config.alphas, own, config.max_targets, config.n_random, config.n_dealt, config.seed)


def study(pipeline: Pipeline) -> Findings:
    """Measure, test, print and draw."""
    config, found = pipeline.config.regulation, Findings()
    context, panel = pipeline, ask(pipeline)
    _say(panel)
    made = effects(panel)
    arms = [arm for one in panel.chosen if (file := made.path / f"{one.tf}.npz").is_file() for arm in arms_module.load(file)]
    tested = {arm.regulon.tf for arm in arms}
    missing = [one for one in panel.chosen if one.tf not in tested]
    reasons = [
        "no feature's gene set has it" if not len(panel.features[one.tf]) else "silent in these cells" for one in missing
    ]
    untested = pd.DataFrame(
        {"tf": [one.tf for one in missing], "targets": [len(one.targets) for one in missing], "why": reasons}
    )
    found.table("untested", untested)
    if not arms:
        raise SteerError(
            f"none of {len(missing)} TFs can be tested: {reasons[0]}; raise regulation.max_cells or take a wider sae."
        )
    genes, source = panel.given.source.genes, panel.given.source
    expression = coexpression(panel.counts, panel.counts.valid, source.fit, np.array([one.column for one in panel.chosen]))
    rows = {one.tf: i for i, one in enumerate(panel.chosen)}
    rules = table.Rules(config.n_permutations, config.n_controls, config.q, config.seed)
    tfs, pairs = table.tf_table(arms, expression, rows, rules), table.pair_table(arms, expression, rows, genes)
    summed = table.summary(tfs, pairs, rules)
    lines = table.conclusion(tfs, summed, rules)
    for name, frame in {"tfs": tfs, "pairs": pairs, "summary": summed}.items():
        found.table(name, frame)
    found.text("conclusion", lines)
    for row in summed.to_dict("records"):
        found.metrics({f"{row['kind']}/{name}": value for name, value in row.items() if name != "kind"})
    own = tfs[tfs["kind"] == arms_module.TF]
    log.info("held-out cells, TFs:\n%s", own[SHOWN].to_string(index=False, float_format="{:.3g}".format))
    log.info("beside the controls:\n%s", summed.to_string(index=False, float_format="{:.3g}".format))
    log.info("%s", "\n".join(lines))
    setup = f"{len(panel.cells)} held-out cells · alphas {config.alphas} · push {config.push}"
    where = f"{model_phrase(context.config)} · layer {context.config.layer.index} · {sae_phrase(context.config)}"
    found.figure("regulation", figure.overview(tfs, summed, f"{where} · {config.regulons} · {setup}"), tfs)
    return found


def ask(context: Context) -> Panel:
    """Find the TFs, and what the study reads of the dictionary; what the user can repair is said before anything is built.

    Raises
    ------
    SteerError
        No network, no head, no test cells, a readout or tokens that are not read here, no such TF, or none with enough targets.
    """
    config, model = context.config.regulation, context.config.model
    require_fixed(context.config, "steer regulation")
    network = load_regulons(config.regulons)
    if not has_head(model_folder(model.path, model.revision)):
        raise SteerError(
            f"{model.path} has no expression head, and regulation is read from predicted expression; take one that has."
        )
    if model.readout != "reconstruction" or model.tokens != "all":
        raise SteerError("regulation reads every gene of whole cells: use model.readout=reconstruction model.tokens=all.")
    cells = load_cells(context.config, model_genes(model.path, model.revision))
    genes = [cells.alignment.genes[i] for i in cells.valid]
    regulons = find_regulons(network, genes, min_targets=config.min_targets)
    if not regulons:
        n = f"{len(genes)} genes and {network['source'].nunique()} TFs"
        raise SteerError(
            f"no TF has regulation.min_targets={config.min_targets} targets among the dataset's genes ({n}); lower it."
        )
    by_name = {one.tf: one for one in regulons}
    for tf in config.tfs:
        if tf not in by_name:
            raise unknown(f"TF in regulation.tfs (with {config.min_targets} targets in the panel)", tf, by_name)
    given = inputs(context)
    if not len(given.source.test):
        raise SteerError("regulation steers held-out cells, and there are none; set dataset.test_share or dataset.test.")
    parent, where = activity(context, given.source, "sae", given.dictionary.sae, given.dictionary.artefact)
    chosen = [by_name[tf] for tf in dict.fromkeys(config.tfs)] or regulons
    return Panel(context, cells, given, regulons, chosen, parent, where.matrix())


def effects(panel: Panel) -> Artefact:
    """Return F and R of every TF, a file each: a killed run resumes at the TF."""
    context, config = panel.context, panel.context.config.regulation
    edges = [(one.tf, one.targets.tolist(), one.signs.tolist()) for one in panel.regulons]
    asked = {
        "features": {tf: found.tolist() for tf, found in panel.features.items()},
        "cells": panel.cells.tolist(),
        "regulons": hashlib.sha256(json.dumps(edges).encode()).hexdigest()[:16],
    }
    settings = {name: getattr(config, name) for name in ("alphas", "push", "max_targets", "n_random", "n_dealt", "seed")}
    settings |= {"layer": layer_index(context.config), **asked}
    parents = [panel.given.source.artefact, panel.given.dictionary.artefact, panel.parent]

    def build(folder: Path) -> None:
        _measure(panel, folder)

    return built(context, "regulation", build, version=VERSION, reads=settings, parents=parents)


def _measure(panel: Panel, folder: Path) -> None:
    cells = load_steered_cells(panel)
    sae = panel.given.dictionary.sae.to(cells.streams.device)
    codes = gene_codes(sae, cells)
    todo = [one for one in panel.chosen if not (folder / f"{one.tf}.npz").is_file()]
    cost = np.zeros(2, np.int64)
    for one in todo:
        firing = sum(int((codes_of(codes, int(f), np.array([one.column])) != 0).sum()) for f in panel.features[one.tf])
        cost += arms_module.passes(one, len(one.targets), firing, panel.design)
    log.info("%s; changes of up to %.1g log1p CP10K are rounding, and count as none", price(cells, *cost), cells.rounding)
    alive = panel.M.any(axis=1)
    for one in track(todo, "TFs", len(todo)):
        others = np.flatnonzero(alive & ~panel.members[one.tf])
        arms = arms_module.measure(cells, codes, sae, one, panel.features[one.tf], panel.regulons, others, panel.design)
        if arms:
            arms_module.save(arms, folder / f"{one.tf}.npz")
    panel.given.dictionary.sae.to("cpu")


def load_steered_cells(panel: Panel) -> SteeredCells:
    """Run the lower blocks over the cells that are steered: memory (G + 2) * D * 4 bytes each."""
    config = panel.context.config
    model = load_steered_model(config)
    layer, batch = layer_index(config), config.model.batch_size
    counts = panel.counts
    device = next(model.parameters()).device
    streams = torch.cat([out[layer].float() for _, out in full_streams(model, counts[panel.cells], [layer], batch_size=batch)])

    def predict(stream: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        found = model.forward_from(layer, stream, read).expression
        assert found is not None
        return found

    return SteeredCells(predict, streams, torch.from_numpy(counts.valid).to(device), batch)


def price(cells: SteeredCells, every: int, one: int) -> str:
    """Return what is to be paid in words; a batch of either kind of pass is timed."""
    seconds = 0.0
    for n, read in ((every, cells.valid), (one, cells.valid[:1])):
        batch = cells.streams[: cells.batch_size]
        start = time.perf_counter()
        with torch.no_grad():
            cells.predict(batch, read).sum().item()  # a GPU answers only when it is done
        seconds += n * (time.perf_counter() - start) / len(batch)
    return f"{every:,} passes that read every gene, {one:,} that read one: about {duration(seconds)}"


def _say(panel: Panel) -> None:
    """Log what is subsampled."""
    config = panel.context.config.regulation
    log.info("%d TFs with %d or more targets among %d genes; %d tested", len(panel.regulons), config.min_targets,
             len(panel.given.source.genes), len(panel.chosen))  # fmt: skip
    more = sum(len(one.targets) > config.max_targets for one in panel.chosen)
    log.info("%d of %d held-out cells, drawn at random, are steered; %d features a TF at the most; of %d TFs only %d targets, "
             "drawn at random, are steered", len(panel.cells), len(panel.given.source.test), config.max_features, more,
             config.max_targets)  # fmt: skip
