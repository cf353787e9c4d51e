"""What a circuit's run folder holds: tables, figures, GraphML, and a conclusion in words."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from ...pipeline.feature_labels import dictionary_labels
from ...plot.provenance import model_phrase, sae_phrase
from ..findings import Findings
from . import figure, graph
from .ablation import level_name
from .carriers import shares
from .compute import Circuit
from .explore import Exploration
from .network import HEAD
from .pairs import Judged, edge_table, strongest_table, summary
from .tables import attributions, correlations, head

log = logging.getLogger(__name__)


def report(explored: Exploration) -> Findings:
    """Return the tables, the figures and the GraphML, and print what they say."""
    circuit, out = explored.circuit, Findings()
    found = with_cosine(circuit, edge_table(explored.judged, circuit.genes))
    tested, screened = attributions(explored)
    rho = correlations(tested)
    blocks = pd.DataFrame([summary(one) for one in explored.judged])
    blocks["attribution_rho"] = [rho.get((row.layer, row.to), np.nan) for row in blocks.itertuples()]
    carried, moved = shares(explored), head(explored)
    tables = {
        "edges": found,
        "pairs": blocks,
        "attribution": tested,
        "screened": screened,
        "mediation": carried,
        "head": moved,
    }
    for name, table in tables.items():
        if len(table):
            out.table(name, table)
    for row in blocks.itertuples():
        name = f"{row.layer}_to_{row.to}".replace(" ", "_")
        out.metrics({f"{name}/{key}": getattr(row, key) for key in ("edges", "fdr_direction", "fdr_matched", "cut")})
        out.metrics({f"{name}/{key}": getattr(row, key) for key in ("degree_firing_rho", "attribution_rho")})
    draw(out, explored, found, carried)
    log.info("pairs of layers:\n%s", blocks.round(3).to_string(index=False))
    if len(carried):
        log.info("through features of later layers:\n%s", carried.drop(columns="features").round(3).to_string(index=False))
    lines = conclusion(blocks, carried)
    out.text("conclusion", lines)
    log.info("%s", "\n".join(lines))
    return out


def with_cosine(circuit: Circuit, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of pairs with the cosine of their decoder rows; NaN for genes.

    The stream carries a feature on by itself: near 1 an edge may be that alone.
    """
    units = {layer: sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True) for layer, sae in circuit.network.saes.items()}
    later = {level_name(layer): unit for layer, unit in units.items()}
    found = [
        float(units[row.layer][row.source] @ later[row.to][int(row.target)]) if row.to in later else np.nan
        for row in table.itertuples()
    ]
    return table.assign(cosine=found)


def draw(out: Findings, explored: Exploration, found: pd.DataFrame, carried: pd.DataFrame) -> None:
    """Add the drawings of the circuit and of the degrees, and the graph of all edges."""
    circuit = explored.circuit
    labels = {layer: dictionary_labels(circuit.context.store, one.artefact) for layer, one in circuit.dictionaries.items()}
    out.file("circuit.graphml", graph.graphml(graph.build(found, labels, explored.theta)))
    most = with_cosine(circuit, strongest_table(explored.judged, circuit.genes, explored.config.n_held))
    out.table("strongest", most)
    whole = graph.build(most, labels, explored.theta)
    levels = graph.level_names(circuit.layers, head=circuit.network.model.has_head)
    if circuit.experiment is not None and circuit.experiment.has_head:
        genes = circuit.experiment.de_genes
        kept = {circuit.genes[g] for g in (*genes.up, *genes.down)}
        whole = whole.subgraph([n for n, data in whole.nodes(data=True) if data["level"] != HEAD or data["name"] in kept])
    some = graph.drawn(whole, levels)
    places = graph.places(some, levels)
    text = caption(circuit)
    if len(places):
        behind = pd.concat([places.reset_index().assign(part="node"), graph.edge_frame(some).assign(part="edge")])
        out.figure("circuit", figure.circuit(some, places, levels, headers(carried), text), behind)
    degree = pd.concat([_degrees(one) for one in explored.judged], ignore_index=True)
    out.table("degrees", degree)
    out.figure("degrees", figure.degrees(degree, text), degree)


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
        f"as many random ones {row.random:.0%}, as active {row.matched:.0%}"
        for row in mine.itertuples()
    }


def conclusion(blocks: pd.DataFrame, shares: pd.DataFrame) -> list[str]:
    """Return what the tables say, in words; that there is nothing, where there is nothing."""
    lines = []
    for row in blocks.itertuples():
        where = f"layer {row.layer} to {row.to}"
        if not row.edges:
            lines.append(f"{where}: no edges: at no size of effect are the nulls few enough among {row.pairs:,} pairs.")
            continue
        lines.append(
            f"{where}: {row.edges:,} edges of {row.pairs:,} pairs, from |effect| = {row.cut:.2g} on; empirical FDR "
            f"{row.fdr_direction:.1%} (random directions), {row.fdr_matched:.1%} (matched features)."
        )
    for row in shares[shares["what"] == "recipe"].itertuples() if len(shares) else ():
        beyond = "more" if row.lo > max(row.random_hi, row.matched_hi) else "no more"
        lines.append(
            f"recipe through {row.held} features of layer {row.through}: {row.share:.0%} [{row.lo:.0%}, {row.hi:.0%}] of its "
            f"effect on the DE genes ({row.effect:+.3f}, up less down), {beyond} than through as many others "
            f"(random {row.random:.0%}, as active {row.matched:.0%})."
        )
    return lines


def _degrees(one: Judged) -> pd.DataFrame:
    block = one.block
    columns = {"layer": block.layer, "to": level_name(block.level), "source": block.sources, "firing": block.firing}
    return pd.DataFrame(columns | {"degree": one.edge.sum(1)})
