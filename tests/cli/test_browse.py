"""`steer browse` as typed: the page holds what the store and the run folders know of the dictionary."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from .conftest import small


def run_of(done):
    return Path(done.stdout.split()[-1])


def table(part):
    """The values (F, n) of a quantised table."""
    top = np.array(part["top"], float)
    values = np.frombuffer(base64.b64decode(part["values"]), np.uint8).reshape(len(top), -1)
    return values / 255 * top[:, None]


@pytest.mark.slow
def test_the_page_knows_recipes_doses_and_cells(steer):
    words = small("outputs=out", "dataset.label=bulk_labels")
    fit = run_of(steer("fit", *words))
    recipe = pd.read_csv(fit / "recipe.csv")
    number = int(recipe["feature"].iloc[0])
    card = run_of(steer("feature", str(number), *words))
    other = run_of(steer("fit", *words, "sae.seed=7"))  # another dictionary's recipe is none of this one's
    page = (run_of(steer("browse", *words)) / "features.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert len(pd.read_csv(other / "recipe.csv"))
    (one,) = data["recipes"]
    assert one["name"].startswith("latent: ")
    assert {int(row): theta for row, theta in one["theta"].items()} == pytest.approx(
        dict(zip(recipe["feature"], recipe["theta"], strict=True)), rel=1e-3
    )
    assert list(data["doses"]) == [str(number)]
    dose = pd.read_csv(card / "dose.csv").query("kind == 'feature'").sort_values("alpha")
    shown = pd.DataFrame(data["doses"][str(number)]["rows"]).query("kind == 'feature'").sort_values("alpha")
    assert shown["up"].tolist() == dose["up"].tolist()
    # all cells of the fits are fewer than the page holds: the mean of a type's cells is the type's profile
    codes, profile, types = table(data["cells"]), table(data["profile"]), np.array(data["cells"]["type"])
    assert codes.max() > 0
    for t, name in enumerate(data["profile"]["types"]):
        step = (np.array(data["cells"]["top"]) + np.array(data["profile"]["top"])) / 255
        assert (np.abs(codes[:, types == name].mean(1) - profile[:, t]) <= step + 1e-9).all()
