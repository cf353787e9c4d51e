"""`steer circuits`: from the responses of each layer's sources to edges, attributions, shares, tables and figures."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ...errors import SteerError
from ...interpret.enrichment import enrich
from ...progress import track
from ...sae.model import weighted_rows
from ...stages.annotate import inputs
from ...stages.common import Context, model_phrase, sae_phrase
from ...stages.labels import dictionary_labels
from . import attribution, figure, graph, mediation
from .ablation import level_name
from .compute import Circuit, Responses, at_layer, prepared, responses
from .network import HEAD, LayerCodes, Level
from .pairs import Judged, edge_table, judge, measure, summary

log = logging.getLogger(__name__)
VERSION = 1
TRUSTED = 0.5
"""Rank correlation with the ablations above which gradients may choose what is ablated next."""
SCREENED = 20


def study(context: Context) -> None:
    """Run the circuit and write its tables, figures and GraphML; with circuits.part, this part of the sources alone."""
    circuit = prepared(context)
    found = Study(circuit)
    if not found.explore():
        config = context.config.circuits
        log.info("part %d of %d done: others are still to come; the same command without circuits.part joins them",
                 config.part, config.parts)  # fmt: skip
        return
    if context.config.circuits.part is None:
        found.report()


class Study:
    """One circuit, layer by layer.

    Attributes
    ----------
    responses : {layer: of its sources}
    judged : every pair of a layer and a later level
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit, self.config = circuit, circuit.context.config.circuits
        self.codes = {layer: LayerCodes(circuit.network, layer) for layer in circuit.layers}
        self.responses: dict[int, Responses] = {}
        self.judged: list[Judged] = []

    @property
    def theta(self) -> dict[tuple[int, int], float]:
        """{(first layer, feature): theta} of the recipe's features among the sources; none without a recipe."""
        recipe, first = self.circuit.recipe, self.circuit.layers[0]
        return {} if recipe is None else {(first, int(f)): float(recipe.theta[f]) for f in self.responses[first].sources}

    def explore(self) -> bool:
        """Ablate every layer's sources and judge the pairs; whether all of them are there."""
        blocks = []
        for layer in self.circuit.layers:
            made = responses(self.circuit, layer, self.sources(layer))
            if made is None:
                return False
            self.responses[layer] = made
            for level in made.clean:
                key = self.circuit.layers.index(level) if isinstance(level, int) else len(self.circuit.layers)
                recorded = track((made.of(int(s)) for s in made.sources), f"{layer} to {level}", len(made.sources))
                blocks.append(
                    measure(
                        layer,
                        level,
                        made.sources,
                        recorded,
                        made.clean[level],
                        made.firing,
                        min_cells=self.config.min_cells,
                        n_permutations=self.config.n_permutations,
                        rng=np.random.default_rng([self.config.seed, layer, key, 63]),
                    )
                )
            self.judged = judge(blocks, self.config.fdr) if blocks else []
        return True

    def sources(self, layer: int) -> np.ndarray:
        """Choose a layer's sources, int64 (n_sources at the most,), strongest first.

        Raises
        ------
        SteerError
            No such feature, or none that fires in circuits.min_cells cells.
        """
        config, circuit = self.config, self.circuit
        activity = self.codes[layer].activity()
        fires = (activity > 0).sum(0) >= config.min_cells
        strength, first = activity.mean(0), layer == circuit.layers[0]
        if first and config.sources:
            outside = [f for f in config.sources if not 0 <= f < len(fires)]
            if outside:
                raise SteerError(f"feature {outside[0]} of circuits.sources does not exist: there are 0 to {len(fires) - 1}.")
            silent = [f for f in config.sources if not fires[f]]
            if silent:
                msg = f"feature {silent[0]} of circuits.sources fires in fewer than {config.min_cells} of the "
                raise SteerError(f"{msg}{len(circuit.cells)} cells: leave it out, or lower circuits.min_cells.")
            return np.array(list(dict.fromkeys(config.sources)))
        if first and circuit.recipe is not None:
            strength = strength * np.abs(circuit.recipe.theta)
            what = f"recruited features of circuits.recipe={config.recipe} at layer {layer}"
        elif not first and (config.sources or circuit.recipe is not None):
            reached = self.reached(circuit.layers[0], layer)
            if reached.any():
                strength = reached
            else:
                log.info("layer %d: no edge reaches it, so that its most active features are taken", layer)
            what = f"features of layer {layer}"
        else:
            what = f"features of layer {layer}"
        chosen = np.flatnonzero(fires & (strength > 0))
        if not len(chosen):
            raise SteerError(f"none of the {what} fires in circuits.min_cells={config.min_cells} cells: lower it.")
        chosen = chosen[np.argsort(-strength[chosen], kind="stable")][: config.n_sources]
        log.info("layer %d: %d sources of the %d %s that fire", layer, len(chosen), int((fires & (strength > 0)).sum()), what)
        return chosen

    def one(self, layer: int, level: Level) -> Judged:
        """Return the pairs of a layer and a level."""
        return next(j for j in self.judged if j.block.layer == layer and j.block.level == level)

    def reached(self, layer: int, level: int) -> np.ndarray:
        """Return how strongly the sources of a layer reach each feature of a later one, float64 (F,): the summed sizes of its
        edges, each times the recipe's |theta| where there is one."""
        found = self.one(layer, level)
        dose = np.array([abs(self.theta.get((layer, int(s)), 1.0)) for s in found.block.sources])
        total = np.zeros(self.circuit.network.saes[level].n_features)
        sizes = np.where(found.edge, np.minimum(found.block.effects.size, 1e6), 0.0)
        total[found.block.targets] = (dose[:, None] * sizes).sum(0)
        return total

    def attributions(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Compare gradients with ablations on pairs that were tested, and screen those that were not.

        Returns
        -------
        tuple of DataFrame
            a row a tested pair: layer, source, to, target, attribution, ablation (mean change over the same cells); and of each
            two layers whose rank correlation is above .5 the untested pairs of largest attribution
        """
        config, network = self.config, self.circuit.network
        tested, screened = [], []
        todo = [j.block for j in self.judged if isinstance(j.block.level, int)] if config.n_targets else []
        for block in track(todo, "attribution", len(todo)):
            assert isinstance(block.level, int)
            rng = np.random.default_rng([config.seed, block.layer, block.level, 64])
            targets = np.sort(rng.choice(block.targets, min(config.n_targets, len(block.targets)), replace=False))
            found = attribution.attributions(
                network, block.layer, block.level, targets, self.codes[block.layer], n_cells=config.gradient_cells
            )
            n = len(found)
            for source in block.sources:
                response = next(self.responses[block.layer].of(int(source)))[1]
                mine = response.cells < n
                if not mine.any():
                    continue
                columns = {"layer": block.layer, "source": source, "to": level_name(block.level), "target": targets}
                columns["attribution"] = found[response.cells[mine], source].mean(0)
                columns["ablation"] = response.changes[block.level][mine][:, targets].mean(0)
                tested.append(pd.DataFrame(columns))
            mean = found.mean(0)
            mean[block.sources] = 0
            i, j = np.unravel_index(np.argsort(-np.abs(mean), axis=None)[:SCREENED], mean.shape)
            columns = {"layer": block.layer, "source": i, "to": level_name(block.level), "target": targets[j]}
            screened.append(pd.DataFrame(columns | {"attribution": mean[i, j]}))
        if not tested:
            return pd.DataFrame(), pd.DataFrame()
        table = pd.concat(tested, ignore_index=True)
        rho = _correlations(table)
        trusted = [s for s in screened if rho.get((s["layer"].iloc[0], s["to"].iloc[0]), 0) > TRUSTED]
        return table, pd.concat(trusted, ignore_index=True) if trusted else pd.DataFrame()

    def head(self) -> pd.DataFrame:
        """Return what each source does to predicted expression: a row a source, the genes it moves most, and their GO."""
        given = inputs(self.at(self.circuit.layers[0]))
        background = np.flatnonzero(given.expressed)
        column = np.full(len(self.circuit.genes), -1)
        column[background] = np.arange(len(background))
        rows, lists = [], []
        for one in self.judged:
            if one.block.level != HEAD:
                continue
            for i, source in enumerate(one.block.sources):
                effect = np.zeros(len(self.circuit.genes))
                effect[one.block.targets] = one.block.effects.effect[i]
                top = _top(effect, background, self.config.n_genes)
                lists.append(np.sort(column[top]))
                signs = {"falls_when_off": top[effect[top] < 0], "rises_when_off": top[effect[top] > 0]}
                names = {name: ", ".join(self.circuit.genes[g] for g in some[:8]) for name, some in signs.items()}
                size = {"largest": float(np.abs(effect).max()), "edges": int(one.edge[i].sum())}
                rows.append({"layer": one.block.layer, "source": int(source), **size, **names})
        table = pd.DataFrame(rows)
        if not len(table):
            return table
        indptr = np.r_[0, np.cumsum([len(some) for some in lists])]
        ones = np.ones(indptr[-1], np.int32)
        matrix = sp.csr_matrix((ones, np.concatenate(lists), indptr), shape=(len(lists), len(background)))
        hits = enrich(matrix, given.library(given.sets).sets)
        table["term"], table["q"] = "", np.nan
        for pair in hits.best():
            table.loc[hits.feature[pair], ["term", "q"]] = given.sets.terms[hits.term[pair]], hits.q[pair]
        return table

    def shares(self) -> pd.DataFrame:
        """Return how much of an effect on genes goes through features of the next layers; a row what is held, and its control.

        Of each layer's strongest sources (and of the recipe as a whole) the named features at a later layer are those of its
        strongest edges. The control holds as many features of that layer at random, of those that fire.
        """
        config, circuit = self.config, self.circuit
        if not circuit.network.model.has_head:
            return pd.DataFrame()
        jobs: list[tuple[str, int, int, mediation.Delta, np.ndarray, np.ndarray]] = []
        for layer in circuit.layers[:-1]:
            effects = self.one(layer, HEAD).block
            order = np.argsort(-np.abs(effects.effects.effect).sum(1), kind="stable")[: config.n_mediated]
            for later in circuit.network.levels(layer):
                if not isinstance(later, int):
                    continue
                pairs = self.one(layer, later)
                for i in order:
                    source = int(effects.sources[i])
                    sizes = np.where(pairs.edge[i], pairs.block.effects.size[i], 0)
                    effect = np.zeros(len(circuit.genes))
                    effect[effects.targets] = effects.effects.effect[i]
                    top = _top(effect, np.arange(len(effect)), config.n_genes)
                    weights = np.zeros(len(effect))
                    weights[top] = np.sign(effect[top]) / len(top)
                    named = pairs.block.targets[_largest(sizes, config.n_held)]
                    jobs.append((f"feature {source}", layer, later, self.off(layer, source), weights, named))
        jobs += self.recipe_jobs()
        return pd.DataFrame([self.held(*job) for job in track(jobs, "mediation", len(jobs)) if len(job[-1])])

    def recipe_jobs(self) -> list[tuple[str, int, int, mediation.Delta, np.ndarray, np.ndarray]]:
        """Return the recipe's: its effect on the DE genes, up less down, through each later layer."""
        circuit, first = self.circuit, self.circuit.layers[0]
        if circuit.recipe is None or circuit.experiment is None or self.config.n_mediated == 0:
            return []
        genes = circuit.experiment.de_genes
        weights = np.zeros(len(circuit.genes))
        weights[genes.up], weights[genes.down] = 1 / max(1, len(genes.up)), -1 / max(1, len(genes.down))
        sae = circuit.network.saes[first]
        rows = torch.as_tensor(circuit.recipe.theta, dtype=torch.float32).to(sae.W_dec)[:, None] * sae.W_dec.detach()

        def delta(group: np.ndarray) -> torch.Tensor:
            return weighted_rows(self.codes[first].group(group, circuit.network.batch_size), rows)

        return [
            ("recipe", first, later, delta, weights, _largest(self.reached(first, later), self.config.n_held))
            for later in circuit.layers[1:]
        ]

    def off(self, layer: int, source: int) -> mediation.Delta:
        """Return the ablation of a source."""
        z, row = self.codes[layer].of(source), self.circuit.network.saes[layer].W_dec[source].detach()
        return lambda group: -z[group][..., None] * row

    def held(
        self, what: str, layer: int, later: int, delta: mediation.Delta, weights: np.ndarray, named: np.ndarray
    ) -> dict[str, float | int | str]:
        """Return the row of one effect and one layer that it may go through."""
        config = self.config
        rng = np.random.default_rng([config.seed, layer, later, 65])
        fires = (self.codes[later].activity() > 0).sum(0) >= config.min_cells
        fires[named] = False
        others = np.flatnonzero(fires)
        n = min(len(named), len(others))
        sets = [named, *(rng.choice(others, n, replace=False) for _ in range(config.held_draws if n else 0))]
        clean = {level: torch.from_numpy(x).to(self.circuit.network.valid.device)
                 for level, x in self.responses[layer].clean.items()}  # fmt: skip
        found = mediation.hold(
            self.circuit.network, layer, delta, later, sets, weights=weights, clean=clean, later=self.codes[later]
        )
        own, *controls = (mediation.mediated(found.total, rest, 1000, rng) for rest in found.rest)
        drawn = [one.share for one in controls] or [float("nan")]
        return {
            "what": what,
            "layer": layer,
            "through": later,
            "held": len(named),
            "effect": float(found.total.mean()),
            "share": own.share,
            "lo": own.lo,
            "hi": own.hi,
            "random": float(np.mean(drawn)),
            "random_lo": float(np.min(drawn)),
            "random_hi": float(np.max(drawn)),
            "features": ", ".join(map(str, named)),
        }

    def at(self, layer: int) -> Context:
        """Return the context of one layer's dictionary."""
        context = self.circuit.context
        return Context(at_layer(context.config, layer), context.store, context.run)

    def report(self) -> None:
        """Write the tables, the figures and the GraphML, and print what they say."""
        circuit, run = self.circuit, self.circuit.context.run
        found = edge_table(self.judged, circuit.genes)
        tested, screened = self.attributions()
        rho = _correlations(tested)
        blocks = pd.DataFrame([summary(one) for one in self.judged])
        blocks["attribution_rho"] = [rho.get((row.layer, row.to), np.nan) for row in blocks.itertuples()]
        shares, head = self.shares(), self.head()
        tables = {
            "edges": found,
            "pairs": blocks,
            "attribution": tested,
            "screened": screened,
            "mediation": shares,
            "head": head,
        }
        for name, table in tables.items():
            if len(table):
                run.table(name, table)
        for row in blocks.itertuples():
            name = f"{row.layer}_to_{row.to}".replace(" ", "_")
            run.metrics({f"{name}/{key}": getattr(row, key) for key in ("edges", "fdr_direction", "fdr_matched", "cut")})
            run.metrics({f"{name}/{key}": getattr(row, key) for key in ("degree_firing_rho", "attribution_rho")})
        self.draw(found, shares)
        log.info("pairs of layers:\n%s", blocks.round(3).to_string(index=False))
        if len(shares):
            log.info("through features of later layers:\n%s", shares.drop(columns="features").round(3).to_string(index=False))
        lines = conclusion(blocks, shares)
        run.text("conclusion", lines)
        log.info("%s", "\n".join(lines))

    def draw(self, found: pd.DataFrame, shares: pd.DataFrame) -> None:
        """Draw the circuit and the degrees, and write the whole graph."""
        circuit, run = self.circuit, self.circuit.context.run
        labels = {layer: dictionary_labels(circuit.context.store, one.artefact) for layer, one in circuit.dictionaries.items()}
        whole = graph.build(found, labels, self.theta)
        graph.save_graphml(whole, run.path / "circuit.graphml")
        levels = graph.level_names(circuit.layers, head=circuit.network.model.has_head)
        if circuit.experiment is not None:
            genes = circuit.experiment.de_genes
            kept = {circuit.genes[g] for g in (*genes.up, *genes.down)}
            whole = whole.subgraph([n for n, data in whole.nodes(data=True) if data["level"] != HEAD or data["name"] in kept])
        some = graph.drawn(whole, levels)
        places = graph.places(some, levels)
        text = caption(circuit)
        if len(places):
            run.figure("circuit", figure.circuit(some, places, levels, headers(shares), text), places.reset_index())
        degree = pd.concat([_degrees(one) for one in self.judged], ignore_index=True)
        run.table("degrees", degree)
        run.figure("degrees", figure.degrees(degree, text), degree)


def caption(circuit: Circuit) -> str:
    """Return one line on what a figure shows."""
    config = circuit.context.config
    what = f"recipe of circuits.recipe={config.circuits.recipe}" if circuit.recipe is not None else "features switched off"
    where = ", ".join(map(str, circuit.layers))
    return f"{model_phrase(config)} · layers {where} · {sae_phrase(config)} · {what} · {len(circuit.cells)} held-out cells"


def headers(shares: pd.DataFrame) -> dict[str, str]:
    """Return what stands above a level: the share of the recipe's effect that goes through its named features."""
    if not len(shares):
        return {}
    mine = shares[shares["what"] == "recipe"]
    return {
        level_name(row.through): f"through {row.held} of them {row.share:.0%} [{row.lo:.0%}, {row.hi:.0%}]\n"
        f"through random ones {row.random:.0%}"
        for row in mine.itertuples()
    }


def conclusion(blocks: pd.DataFrame, shares: pd.DataFrame) -> list[str]:
    """Return what the tables say, in words; that there is nothing, where there is nothing."""
    lines = []
    for row in blocks.itertuples():
        where = f"layer {row.layer} to {row.to}"
        if not row.edges:
            lines.append(f"{where}: no edges: no size of effect keeps the nulls at the wanted share of {row.pairs:,} pairs.")
            continue
        lines.append(
            f"{where}: {row.edges:,} edges of {row.pairs:,} pairs, from a size of {row.cut:.2g}; empirical FDR "
            f"{row.fdr_direction:.1%} (random directions), {row.fdr_matched:.1%} (matched features)."
        )
    for row in shares[shares["what"] == "recipe"].itertuples() if len(shares) else ():
        beyond = "more" if row.lo > row.random_hi else "no more"
        lines.append(
            f"recipe through {row.held} features of layer {row.through}: {row.share:.0%} [{row.lo:.0%}, {row.hi:.0%}] of its "
            f"effect on the DE genes, {beyond} than through as many random ones ({row.random:.0%})."
        )
    return lines


def _correlations(tested: pd.DataFrame) -> dict[tuple[int, str], float]:
    """{(layer, to): rank correlation of attributions with ablations}."""
    if not len(tested):
        return {}
    return {
        key: attribution.rank_correlation(some["attribution"].to_numpy(), some["ablation"].to_numpy())
        for key, some in tested.groupby(["layer", "to"])
    }


def _degrees(one: Judged) -> pd.DataFrame:
    block = one.block
    columns = {"layer": block.layer, "to": level_name(block.level), "source": block.sources, "firing": block.firing}
    return pd.DataFrame(columns | {"degree": one.edge.sum(1)})


def _top(effect: np.ndarray, among: np.ndarray, n: int) -> np.ndarray:
    """The n genes of largest |effect| among some, largest first."""
    return np.asarray(among[np.argsort(-np.abs(effect[among]), kind="stable")[:n]])


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Positions of the n largest values above 0."""
    order = np.argsort(-values, kind="stable")[:n]
    return np.asarray(order[values[order] > 0])
