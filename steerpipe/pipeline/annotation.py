"""What the features mean, beside what neurons, PCA, FastICA and a random SAE would give."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from ..config import AnnotateConfig, as_dict
from ..data.genesets import GeneSets, load_library, local_file
from ..digest import file_digest
from ..errors import SteerError, unknown
from ..interpret import tables
from ..interpret.activity import Activity
from ..interpret.annotation import Annotation, Library, Rules, annotate, compare_ic, type_enrichment
from ..interpret.enrichment import enrich
from ..interpret.graph import components, find_modules, name_modules, ochiai_graph
from .activations import Activations, activations
from .artefact import Artefact, built
from .baseline_dictionaries import baselines
from .context import Context
from .dictionary import Dictionary, check_dictionary, dictionary
from .feature_activity import activity, expressed_genes
from .recurrence import known_stability

log = logging.getLogger(__name__)
VERSION = 1


@dataclass(frozen=True)
class Annotated:
    """What is known of the SAE's features.

    Attributes
    ----------
    features : one row a feature (see interpret.tables.feature_table); stability too, where `steer stability` has measured it
    enrichment : significant pairs and each feature's best one; modules : of the feature graph; types : activity by type
    edges : the feature graph, columns a, b, ochiai
    scores : the SAE's row in the table of dictionaries
    activity : where the features fire
    """

    artefact: Artefact
    features: pd.DataFrame
    enrichment: pd.DataFrame
    modules: pd.DataFrame
    types: pd.DataFrame
    edges: pd.DataFrame
    scores: dict[str, Any]
    activity: Activity

    def mask(self) -> NDArray[np.bool_]:
        """bool (F,): features with a term at q < annotate.q."""
        return np.asarray(self.features["label"].to_numpy(str) != "")


@dataclass(frozen=True)
class Inputs:
    """What every annotation reads: activations, the SAE, gene expression, and the library on the background."""

    context: Context
    source: Activations
    dictionary: Dictionary
    expression_artefact: Artefact
    expression: pd.DataFrame

    @property
    def expressed(self) -> NDArray[np.bool_]:
        """bool (G,): the background."""
        return np.asarray(self.expression["expressed"], bool)

    @property
    def rules(self) -> Rules:
        config = self.context.config.annotate
        return Rules(config.q, config.min_genes, config.max_genes, config.n_random, config.seed)

    @cached_property
    def sets(self) -> GeneSets:
        """The library's sets that are neither too small nor too large in the background."""
        return self.load(self.context.config.annotate.library)

    def load(self, name: str) -> GeneSets:
        config, sets = self.context.config.annotate, load_library(name)
        sizes = np.diff(sets.matrix(self.background).indptr)
        keep = np.flatnonzero((sizes >= config.min_size) & (sizes <= config.max_size))
        if not len(keep):
            raise SteerError(
                f"none of the {len(sets)} sets of {name} has {config.min_size} to {config.max_size} of the "
                f"{len(self.background)} background genes; set annotate.min_size, or check that the library has human symbols."
            )
        return sets.take(keep)

    @property
    def background(self) -> list[str]:
        """Symbols of the background's genes."""
        return [gene for gene, there in zip(self.source.genes, self.expressed, strict=True) if there]

    def library(self, sets: GeneSets) -> Library:
        """Return sets as the tests take them."""
        return Library(sets.matrix(self.background), sets.information)

    def annotate(self, where: Activity) -> Annotation:
        """Annotate a dictionary by its activity."""
        mean = self.expression["mean"].to_numpy(np.float64)
        return annotate(where, self.expressed, mean, self.library(self.sets), self.rules)

    def direct(self, found: Annotation) -> pd.DataFrame | None:
        """Return the significant pairs with GO terms that genes are annotated to directly; None for another library."""
        config = self.context.config.annotate
        if config.library != "go_bp":
            return None
        sets = self.load("go_bp_direct")
        pairs = enrich(found.tested, sets.matrix(self.background)).significant(config.q)
        return pd.DataFrame({"feature": pairs.feature, "term": np.array(sets.terms, object)[pairs.term], "p": pairs.p})


def inputs(context: Context) -> Inputs:
    """Return what annotations read, building what is missing; a wrong library is refused before anything is built."""
    check_dictionary(context.config)
    load_library(context.config.annotate.library)
    label = context.config.dataset.label

    def check(obs: pd.DataFrame) -> None:
        if label is not None and label not in obs:
            raise unknown("label column", label, obs.columns)

    source = activations(context, check)
    return Inputs(context, source, dictionary(context, source), *expressed_genes(context, source))


def annotation(context: Context) -> Annotated:
    """Return the SAE's annotation, building it when it is missing."""
    given = inputs(context)
    made, where = activity(context, given.source, "sae", given.dictionary.sae, given.dictionary.artefact)
    artefact = _get(context, "annotate", given, [made], lambda folder: _build(given, where, folder))
    path = artefact.path
    frames = {
        name: pd.read_parquet(path / f"{name}.parquet") for name in ("features", "enrichment", "modules", "types", "edges")
    }
    known = known_stability(context.store, given.dictionary.artefact.key)
    if known is not None:
        frames["features"]["stability"] = known.reindex(frames["features"]["feature"]).to_numpy()
    return Annotated(artefact, **frames, scores=json.loads((path / "scores.json").read_text()), activity=where)


def comparison(context: Context) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of the five dictionaries, and PR and maximum IC of each of their features."""
    given = inputs(context)
    fitted, others = baselines(context, given.source, given.dictionary)
    pairs = [("sae", given.dictionary.sae, given.dictionary.artefact)]
    pairs += [(name, features, fitted) for name, features in others.items().items()]  # type: ignore[misc]
    made = {name: activity(context, given.source, name, features, artefact) for name, features, artefact in pairs}

    def build(folder: Path) -> None:
        rows, spread = [], []
        first = None
        for name, (_, where) in made.items():
            found = given.annotate(where)
            first = first or found
            row = found.row(name, given.rules.q)
            row["mann_whitney_p"] = compare_ic(first, found) if found is not first else float("nan")
            direct = given.direct(found)
            if direct is not None:
                row["annotated_direct"] = direct["feature"].nunique() / len(found.pr)
            if name == "ica":
                row["converged"] = float(others.ica_converged)
            rows.append(row)
            columns = {"dictionary": name, "feature": np.arange(len(found.pr)), "pr": found.pr, "max_ic": found.max_ic}
            spread.append(pd.DataFrame(columns | {"annotated": found.annotated(given.rules.q)}))
        pd.DataFrame(rows).to_csv(folder / "dictionaries.csv", index=False)
        pd.concat(spread, ignore_index=True).to_parquet(folder / "spread.parquet", index=False)

    path = _get(context, "annotate-baselines", given, [artefact for artefact, _ in made.values()], build).path
    return pd.read_csv(path / "dictionaries.csv"), pd.read_parquet(path / "spread.parquet")


def own_row(found: Annotated) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the same two tables for the SAE alone."""
    spread = found.features[["feature", "pr", "max_ic"]].assign(dictionary="sae", annotated=found.mask())
    return pd.DataFrame([found.scores]), spread


def _get(context: Context, stage: str, given: Inputs, parents: list[Artefact], build: Any) -> Artefact:
    """The store's artefact of a stage that reads the annotate group, the library's file and gene expression."""
    settings = as_dict(context.config.annotate)
    settings.pop("baselines")
    file = local_file(context.config.annotate.library)
    if file is not None:
        settings.pop("library")  # the file's content is what counts
    digests = [] if file is None else [file_digest(file)]
    every = [*parents, given.expression_artefact]
    return built(context, stage, build, version=VERSION, reads=settings, parents=every, inputs=digests)


def _build(given: Inputs, where: Activity, folder: Path) -> None:
    config: AnnotateConfig = given.context.config.annotate
    found, sets = given.annotate(where), given.sets
    content = sets.information
    graph = ochiai_graph(found.sets, config.ochiai)
    groups = components(graph), find_modules(graph, seed=config.seed)
    pairs = tables.pair_table(found, sets, given.background, config.q, content)
    hits = pairs[pairs["q"] < config.q]
    modules = name_modules(groups[1], found.sets, given.source.genes, hits, content)
    types = type_enrichment(where)
    features = tables.feature_table(
        found, where, given.source.genes, hits, groups, types, given.direct(found), sets, given.rules.q
    )
    upper = sp.coo_matrix(sp.triu(graph))
    edges = pd.DataFrame({"a": upper.row, "b": upper.col, "ochiai": upper.data})
    frames = {"features": features, "enrichment": pairs, "modules": modules, "types": types, "edges": edges}
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    extra = {"sets": len(sets), "background": len(given.background), "pairs_tested": found.pairs.tested}
    extra |= {"significant_pairs": len(hits), "edges": len(edges)}
    extra |= {"components": int(groups[0].max(initial=-1)) + 1, "largest_component": int((groups[0] == 0).sum())}
    (folder / "scores.json").write_text(json.dumps({**found.row("sae", config.q), **extra}, indent=1))
