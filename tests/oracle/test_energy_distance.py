"""The energy distance is scperturb's, which scPerturb's E-distances were computed with. `make oracle` has it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

pytest.importorskip("scperturb", reason="make oracle has it")

from scperturb import edist

from steerpipe.evaluate.population import energy_distance

pytestmark = pytest.mark.oracle
SIZES = {"control": 40, "perturbed": 25, "alike": 31}


def test_energy_distance_is_that_of_scperturb(rng):
    """Its Euclidean form without self pairs: three groups of cells, one far, one near, of unlike size."""
    shifts = {"control": 0.0, "perturbed": 1.5, "alike": 0.0}
    groups = {name: rng.normal(shifts[name], 1, (n, 12)) for name, n in SIZES.items()}
    labels = np.repeat(list(SIZES), list(SIZES.values()))
    cells = AnnData(obs=pd.DataFrame({"group": labels}, index=[str(i) for i in range(len(labels))]))
    cells.obsm["space"] = np.vstack(list(groups.values()))
    theirs = edist(cells, "group", "space", dist="euclidean", sample_correct=True, verbose=False)
    for a in SIZES:
        for b in SIZES:
            if a != b:
                # its distance of a cell to itself is rounding, up to 1e-7, where ours is 0
                assert energy_distance(groups[a], groups[b]) == pytest.approx(theirs.loc[a, b], abs=1e-7)
    assert theirs.loc["control", "perturbed"] > 10 * abs(theirs.loc["control", "alike"])
