"""How much of an effect on genes goes through which features of later layers, beside as many random ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ...progress import track
from ...sae.model import weighted_rows
from . import mediation
from .explore import Exploration
from .network import HEAD


def shares(explored: Exploration) -> pd.DataFrame:
    """Return how much of an effect on genes goes through features of the next layers; a row what is held, and its control.

    Of each layer's strongest sources (and of the recipe as a whole) the named features at a later layer are those of its
    largest effects of small q. The controls hold as many other features of that layer, of those that fire: at random, and each
    matched in activity to one of the named.
    """
    config, circuit = explored.config, explored.circuit
    if not circuit.network.model.has_head:
        return pd.DataFrame()
    jobs: list[tuple[str, int, int, mediation.Delta, np.ndarray, np.ndarray]] = []
    for layer in circuit.layers[:-1]:
        effects = explored.one(layer, HEAD).block
        order = np.argsort(-np.abs(effects.effects.effect).sum(1), kind="stable")[: config.n_mediated]
        for later in circuit.network.levels(layer):
            if not isinstance(later, int):
                continue
            pairs = explored.one(layer, later)
            for i in order:
                source = int(effects.sources[i])
                effect = np.zeros(len(circuit.genes))
                effect[effects.targets] = effects.effects.effect[i]
                top = strongest(effect, np.arange(len(effect)), config.n_genes)
                weights = np.zeros(len(effect))
                weights[top] = np.sign(effect[top]) / len(top)
                named = pairs.block.targets[largest(pairs.sizes[i], config.n_held)]
                jobs.append((f"feature {source}", layer, later, off(explored, layer, source), weights, named))
    jobs += recipe_jobs(explored)
    return pd.DataFrame([held(explored, *job) for job in track(jobs, "mediation", len(jobs)) if len(job[-1])])


def recipe_jobs(explored: Exploration) -> list[tuple[str, int, int, mediation.Delta, np.ndarray, np.ndarray]]:
    """Return the recipe's: its effect on the DE genes, up less down, through each later layer."""
    circuit, first = explored.circuit, explored.circuit.layers[0]
    if circuit.recipe is None or circuit.experiment is None or explored.config.n_mediated == 0:
        return []
    genes = circuit.experiment.de_genes
    weights = np.zeros(len(circuit.genes))
    weights[genes.up], weights[genes.down] = 1 / max(1, len(genes.up)), -1 / max(1, len(genes.down))
    sae = circuit.network.saes[first]
    rows = torch.as_tensor(circuit.recipe.theta, dtype=torch.float32).to(sae.W_dec)[:, None] * sae.W_dec.detach()

    def delta(group: np.ndarray) -> torch.Tensor:
        return weighted_rows(explored.codes[first].group(group, circuit.network.batch_size), rows)

    return [
        ("recipe", first, later, delta, weights, largest(explored.reached(first, later), explored.config.n_held))
        for later in circuit.layers[1:]
    ]


def off(explored: Exploration, layer: int, source: int) -> mediation.Delta:
    """Return the ablation of a source."""
    z, row = explored.codes[layer].of(source), explored.circuit.network.saes[layer].W_dec[source].detach()
    return lambda group: -z[group][..., None] * row


def held(
    explored: Exploration, what: str, layer: int, later: int, delta: mediation.Delta, weights: np.ndarray, named: np.ndarray
) -> dict[str, float | int | str]:
    """Return the row of one effect and one layer that it may go through."""
    config, network = explored.config, explored.circuit.network
    rng = np.random.default_rng([config.seed, layer, later, 65])
    activity = explored.codes[later].activity()
    strength = np.where((activity > 0).sum(0) >= config.min_cells, activity.mean(0), 0)
    others = strength.copy()
    others[named] = 0
    there = np.flatnonzero(others)
    sets = {"random": [rng.choice(there, min(len(named), len(there)), replace=False) for _ in range(config.held_draws)]}
    sets["matched"] = [_matched(others, strength[named], rng) for _ in range(config.held_draws)]
    clean = {level: torch.from_numpy(x).to(network.valid.device) for level, x in explored.responses[layer].clean.items()}
    every = [named, *sets["random"], *sets["matched"]]
    found = mediation.hold(network, layer, delta, later, every, weights=weights, clean=clean, later=explored.codes[later])
    own, *controls = (mediation.mediated(found.total, rest, 1000, rng) for rest in found.rest)
    row: dict[str, float | int | str] = {
        "what": what,
        "layer": layer,
        "through": later,
        "held": len(named),
        "effect": float(found.total.mean()),
        **own._asdict(),
    }
    for number, name in enumerate(sets):
        drawn = [one.share for one in controls[number * config.held_draws : (number + 1) * config.held_draws]]
        row |= {name: float(np.mean(drawn)), f"{name}_lo": float(np.min(drawn)), f"{name}_hi": float(np.max(drawn))}
    return row | {"features": ", ".join(map(str, named))}


def _matched(strength: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw for each wanted activity one of the four features nearest to it in ratio, none twice; strength 0 is never drawn."""
    left = strength.copy()
    chosen: list[int] = []
    for one in wanted[wanted > 0]:
        there = np.flatnonzero(left)
        if len(there):
            near = there[np.argsort(np.abs(np.log(left[there] / one)), kind="stable")[:4]]
            chosen.append(int(rng.choice(near)))
            left[chosen[-1]] = 0
    return np.array(chosen, np.int64)


def strongest(effect: np.ndarray, among: np.ndarray, n: int) -> np.ndarray:
    """The n genes of largest |effect| among some, largest first."""
    return np.asarray(among[np.argsort(-np.abs(effect[among]), kind="stable")[:n]])


def largest(values: np.ndarray, n: int) -> np.ndarray:
    """Positions of the n largest values above 0."""
    order = np.argsort(-values, kind="stable")[:n]
    return np.asarray(order[values[order] > 0])
