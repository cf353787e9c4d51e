"""A circuit as a graph: nodes are features of a layer and genes, edges are effects."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import numpy as np
import pandas as pd

from .ablation import level_name
from .network import HEAD

Labels = Mapping[int, Mapping[int, str]]
"""{layer: {feature: label}}."""


def build(edges: pd.DataFrame, labels: Labels, theta: Mapping[tuple[int, int], float] | None = None) -> nx.DiGraph:
    """Return the graph of a table of pairs (pairs.edge_table, pairs.strongest_table).

    Node ids are `layer 2/17` and `head/CD8A`; nodes carry level, name, label and, where they are a recipe's, theta. Edges carry
    effect, size (its absolute value), d, consistency, q, edge (whether it is one), and `sign`: + where the target rises with
    the source, so falls when that is off.

    Parameters
    ----------
    theta : {(layer, feature): value} of a recipe
    """
    graph = nx.DiGraph()
    known = {(level_name(layer), str(feature)): label for layer, some in labels.items() for feature, label in some.items()}
    values = {(level_name(layer), str(feature)): value for (layer, feature), value in (theta or {}).items()}

    def node(level: str, name: str) -> str:
        key = f"{level}/{name}"
        if key not in graph:
            graph.add_node(key, level=level, name=name, label=known.get((level, name), ""))
            if (level, name) in values:
                graph.nodes[key]["theta"] = values[level, name]
        return key

    for level, name in values:
        node(level, name)
    for row in edges.itertuples():
        start, stop = node(level_name(row.layer), str(row.source)), node(row.to, row.target)
        numbers = {name: float(getattr(row, name)) for name in ("effect", "d", "consistency", "q")} | {"size": abs(row.effect)}
        graph.add_edge(start, stop, sign="+" if row.effect < 0 else "-", edge=bool(row.edge), **numbers)
    return graph


def graphml(graph: nx.DiGraph) -> str:
    """Return a graph as GraphML."""
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def drawn(graph: nx.DiGraph, levels: list[str], *, per_level: int = 10, strongest: int = 3) -> nx.DiGraph:
    """Return what of a graph can be read: of each level the nodes of strongest edges, and each node's strongest edges.

    Edges that skip a level are left out.

    Parameters
    ----------
    levels : left to right; per_level : nodes of one; strongest : edges that are kept of either end
    """
    rank = {level: i for i, level in enumerate(levels)}
    steps = [
        (a, b, data)
        for a, b, data in graph.edges(data=True)
        if graph.nodes[b]["level"] in rank and rank[graph.nodes[b]["level"]] == rank[graph.nodes[a]["level"]] + 1
    ]
    kept: set[str] = set()
    for i, level in enumerate(levels):
        out = _weight((a, data) for a, b, data in steps if graph.nodes[a]["level"] == level)
        into = _weight((b, data) for a, b, data in steps if graph.nodes[b]["level"] == level and (i == 0 or a in kept))
        # a node in the middle must lead on, or the circuit ends there
        weight = into if i == len(levels) - 1 else out if i == 0 else {n: w for n, w in into.items() if n in out} or into
        chosen = sorted(weight, key=lambda n: (-weight[n], n))[:per_level]
        recipe = [n for n, data in graph.nodes(data=True) if data["level"] == level and "theta" in data]
        kept |= set((recipe if i == 0 and recipe else [])[:per_level]) or set(chosen)
    found = nx.DiGraph()
    found.add_nodes_from((n, graph.nodes[n]) for n in graph if n in kept)
    some = sorted((e for e in steps if e[0] in kept and e[1] in kept), key=lambda e: (-e[2]["size"], e[0], e[1]))
    seen: dict[str, int] = {}
    for a, b, data in some:
        if min(seen.get(f"out {a}", 0), seen.get(f"in {b}", 0)) < strongest:
            found.add_edge(a, b, **data)
            for key in (f"out {a}", f"in {b}"):
                seen[key] = seen.get(key, 0) + 1
    return found


def places(graph: nx.DiGraph, levels: list[str]) -> pd.DataFrame:
    """Return where nodes are drawn: a column a level, each ordered by the mean place of its neighbours (Sugiyama et al. 1981).

    Returns
    -------
    DataFrame indexed by node; columns level, name, label, theta, x (the level's number), y in [0, 1]
    """
    columns = [sorted(n for n in graph if graph.nodes[n]["level"] == level) for level in levels]
    y = {n: (i + 0.5) / len(column) for column in columns for i, n in enumerate(column)}
    undirected = graph.to_undirected()
    for sweep in range(8):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            mean = {n: float(np.mean([y[m] for m in undirected[n]])) if len(undirected[n]) else y[n] for n in column}
            for i, n in enumerate(sorted(column, key=lambda n: (mean[n], n))):
                y[n] = (i + 0.5) / len(column)
    rows = [
        {"node": n, **{k: graph.nodes[n].get(k) for k in ("level", "name", "label", "theta")}, "x": x, "y": y[n]}
        for x, column in enumerate(columns)
        for n in column
    ]
    return pd.DataFrame(rows, columns=["node", "level", "name", "label", "theta", "x", "y"]).set_index("node")


def edge_frame(graph: nx.DiGraph) -> pd.DataFrame:
    """Return a graph's edges, a row each: node, target and what the edge carries."""
    return pd.DataFrame([{"node": a, "target": b, **data} for a, b, data in graph.edges(data=True)])


def level_names(layers: list[int], *, head: bool) -> list[str]:
    """Return the levels of a drawing, left to right."""
    return [*(level_name(layer) for layer in layers), *([HEAD] if head else [])]


def _weight(pairs: object) -> dict[str, float]:
    total: dict[str, float] = {}
    for node, data in pairs:  # type: ignore[attr-defined]
        total[node] = total.get(node, 0.0) + data["size"]
    return total
