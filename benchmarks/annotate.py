"""`make bench-annotate`: 10,400 features against the shipped 6,482 GO sets, beside gseapy's time for one gene list.

Feature sets are random, of 10 to 100 genes of the 19,264, drawn more often the more sets a gene is in. Paired, in one process; CPU
time of one thread. gseapy tests one list a call; its p-values are compared for every list that is timed. The last line is
one JSON object.
"""

from __future__ import annotations

import json
import resource
import time

import gseapy
import numpy as np
import scipy.sparse as sp

from steerpipe.data.genes import gene_list
from steerpipe.data.genesets import load_library
from steerpipe.interpret.enrichment import enrich

FEATURES, LISTS, REPEATS = 10_400, 12, 3


def draw(library: sp.csr_matrix, n: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Return n random gene sets (n, G)."""
    weight = np.asarray(library.sum(0)).ravel() + 1.0
    sizes = rng.integers(10, 101, n)
    keys = np.log(rng.random((n, library.shape[1]), dtype=np.float32)) / weight.astype(np.float32)  # Efraimidis, Spirakis 2006
    columns = [np.argpartition(-row, size)[:size] for row, size in zip(keys, sizes, strict=True)]
    indices = np.concatenate(columns)
    return sp.csr_matrix((np.ones(len(indices), np.int32), indices, np.r_[0, np.cumsum(sizes)]), shape=(n, library.shape[1]))


def main() -> None:
    """Run it."""
    genes = list(gene_list())
    sets = load_library("go_bp")
    library = sets.matrix(genes)
    features = draw(library, FEATURES, np.random.default_rng(0))
    enrich(features[:100], library)
    ours, wall, theirs = [], [], []
    names = {f"set {i}": [genes[j] for j in library[i].indices] for i in range(len(sets))}
    worst = 0.0
    for repeat in range(REPEATS):
        clock, start = time.perf_counter(), time.process_time()
        found = enrich(features, library)
        ours.append(time.process_time() - start)
        wall.append(time.perf_counter() - clock)
        for f in range(repeat * LISTS // REPEATS, (repeat + 1) * LISTS // REPEATS):
            mine = [genes[j] for j in features[f].indices]
            start = time.process_time()
            table = gseapy.enrich(mine, gene_sets=names, background=genes, outdir=None, no_plot=True).results
            theirs.append(time.process_time() - start)
            p = table.set_index("Term")["P-value"].astype(float)
            pairs = np.flatnonzero(found.feature == f)
            assert len(p) == len(pairs)
            other = p.loc[[f"set {t}" for t in found.term[pairs]]].to_numpy()
            worst = max(worst, float(np.abs(found.p[pairs] / other - 1).max()))
    per_list = float(np.median(theirs))
    result = {
        "features": FEATURES,
        "sets": len(sets),
        "genes": len(genes),
        "overlapping_pairs": len(found.p),
        "cpu_seconds": float(np.median(ours)),
        "wall_seconds": float(np.median(wall)),
        "gseapy_cpu_seconds_per_list": per_list,
        "gseapy_cpu_seconds_all_lists_extrapolated": per_list * FEATURES,
        "ratio": per_list * FEATURES / float(np.median(ours)),
        "largest_relative_difference_of_p": worst,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
