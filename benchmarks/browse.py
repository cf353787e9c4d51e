"""`make bench-browse`: a made-up dictionary of 10,000 features as a page: its size, and its searches in a headless Chromium.

A search is timed from the key to the laid-out rows, each query five times; the slowest is given. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from steerpipe.report.browser import Catalogue, browser_page

QUERIES = ("c", "cd8", "gene12", "kinase cascade", "xyzzy", "")
TIME = """query => { const box = document.getElementById('query'), start = performance.now(); box.value = query;
box.dispatchEvent(new Event('input'));
document.getElementById('space').getBoundingClientRect(); return performance.now() - start; }"""


def synthetic(n: int = 10_000, cells: int = 400, seed: int = 0) -> Catalogue:
    """Return a made-up catalogue of n features; feature 7 alone has the gene CD8A."""
    rng = np.random.default_rng(seed)
    words = np.array(["kinase", "cascade", "regulation of", "T cell", "response to", "antigen", "activation", "pathway"])
    terms = np.array([f"{' '.join(rng.choice(words, 4))} {i}" for i in range(2000)])
    types = [f"type {t}" for t in range(12)]
    picks = rng.integers(2000, size=(n, 5))
    genes = [[f"GENE{g}" for g in row] for row in rng.integers(15_000, size=(n, 40))]
    genes[7][0] = "CD8A"
    columns = {"density": rng.random(n) * 0.01, "pr": 1 + 50 * rng.random(n), "stability": rng.integers(5, size=n) / 4}
    frame = pd.DataFrame({"feature": np.arange(n), "label": terms[picks[:, 0]], "label_q": rng.random(n) * 0.05, **columns})
    frame["terms"] = ["; ".join(terms[row]) for row in picks]
    frame["genes"] = [", ".join(row) for row in genes]
    frame["cell_types"] = rng.choice(types, n)
    weights = np.sort(rng.random((n, 40)), axis=1)[:, ::-1]
    each = np.repeat(np.arange(n), 5)
    pairs = pd.DataFrame({"feature": each, "term": terms[picks.ravel()], "q": 0.01, "overlap": 5, "set_genes": 60})
    return Catalogue(
        frame,
        model="mini",
        what="made up",
        genes=pd.DataFrame({"feature": np.repeat(np.arange(n), 40), "weight": weights.ravel()}),
        pairs=pairs,
        types=types,
        profile=rng.random((12, n)),
        cells=pd.DataFrame({"x": rng.normal(size=cells), "y": rng.normal(size=cells), "type": rng.choice(types, cells)}),
        codes=rng.random((cells, n)),
        doses={7: {"title": "steered", "rows": [{"kind": "feature", "alpha": a, "up": a * a, "down": 1} for a in (-1, 1, 3)]}},
        recipes=[{"name": "latent: a → b", "href": "", "theta": {7: 0.5, 8: -0.5}}],
    )


def main() -> None:
    """Write the page and time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=10_000)
    n = parser.parse_args().features
    from playwright.sync_api import sync_playwright

    html = browser_page(synthetic(n))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "features.html"
        path.write_text(html)
        page = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).new_page()
        page.goto(f"file://{path}")
        times = {query: max(page.evaluate(TIME, query) for _ in range(5)) for query in QUERIES}
    for query, ms in times.items():
        print(f"{query!r:20} {ms:6.1f} ms")
    print(
        json.dumps({"features": n, "megabytes": round(len(html) / 1e6, 2), "slowest_search_ms": round(max(times.values()), 1)})
    )


if __name__ == "__main__":
    main()
