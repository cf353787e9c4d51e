"""The report as a file, and in a headless Chromium: offline, sorted, seen, printed, used by keyboard alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import steerpipe
from steerpipe.cli.report import captions
from steerpipe.cli.runs import differences, sweep_rows
from steerpipe.past import Past, find_runs
from steerpipe.plot.captions import CAPTIONS, caption_of
from steerpipe.report.page import comparison_page, run_page, sweep_page, write_page
from steerpipe.run import Run

HEADLINE = {
    "edistance": 0.01, "gap": 0.01, "orthogonal": 0.2, "probe": 0.01, "c2st": 0.5, "spread": 0.2, "closer": 0.2, "change": 0.2,
}  # fmt: skip
CELLS = {"closer": 0.2, "change": 0.2}


def make_run(folder, *, seed=0, model="mini", k=8):
    """A run folder as `steer run` writes it, with figures by matplotlib."""
    rng = np.random.default_rng(seed)
    config = {
        "model": {"path": model},
        "dataset": {"name": "pbmc68k_reduced", "path": None},
        "contrast": {"source": "CD4", "target": "<CD8>"},
        "sae": {"k": k},
    }
    with Run(folder, "run", config, overrides=[f"sae.k={k}"]) as run:
        rows = [
            {"recipe": recipe, "kind": kind, "split": "held", "space": space, "score": score, "value": rng.random(), "p": p}
            | {"null_lo": -0.25, "null_hi": 0.5, "lo": 0.1, "hi": 0.9, "n_null": 100, "dictionaries": 3}
            for recipe, kind in (
                ("latent", "recipe"),
                ("expression", "recipe"),
                ("no-op", "control"),
                ("random features", "control"),
            )
            for space, scores in {"layer": HEADLINE, "expression": HEADLINE, "de_up": CELLS}.items()
            for score, p in scores.items()
        ]
        run.table("scores", pd.DataFrame(rows))
        run.text("conclusion", ["latent: moves the population.", "expression: nothing beyond its null."])
        on = rng.permutation(64)[:12]
        run.table("recipe_latent", pd.DataFrame({"feature": on, "theta": rng.normal(size=12)}))
        named = {"feature": np.arange(64), "genes": "CD8A CCL5", "terms": "T cell activation", "verdict": "above both floors"}
        run.table("annotation", pd.DataFrame(named))
        run.metrics({"latent/gap": 1e-9 * k, "latent/n_0.05": 12 + seed})
        for name, width in (("before_after", 12.4), ("one", 4), ("two", 4)):
            with mpl.rc_context({"svg.hashsalt": "steerpipe"}):
                figure = Figure(figsize=(width, 3))
                figure.subplots().plot(rng.normal(size=20))
                run.figure(name, figure, pd.DataFrame({"x": [1.0]}))
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    a = make_run(outputs / "run" / "2026-01-01" / "a")
    b = make_run(outputs / "run" / "2026-01-01" / "b", seed=1, model="/models/other", k=16)
    one, two = (Past(run.path, run.name, run.manifest) for run in find_runs(outputs))
    write_page(outputs / "run.html", run_page(a))
    columns, rows = sweep_rows([one, two])
    write_page(outputs / "sweep.html", sweep_page("s", [one.manifest, two.manifest], columns, rows))
    write_page(outputs / "both.html", comparison_page(a, b, *differences(one, two)))
    return outputs


def test_the_page_has_what_a_reader_needs(pages):
    text = (pages / "run.html").read_text()
    for part in (
        "Did the population change identity?",
        "Distances per cell",
        "no-op",
        "Recipe latent",
        "T cell activation",
        "above both floors",
        "What is not claimed",
    ):
        assert part in text
    assert "It is not AIDO.Cell" in text
    assert "CD4 → &lt;CD8&gt;" in text
    assert "latent: moves the population." in text
    assert '<span class="grey">' in text
    assert "~" not in re.sub(r"<script.*?</script>|<pre.*?</pre>", "", text, flags=re.S)
    assert text.count("<svg") == 3
    assert "How to cite" in text
    assert len(text) < 5_000_000
    ids = [word.split('"')[1] for word in text.split(" ") if word.startswith('id="')]
    assert len(ids) == len(set(ids))
    assert "not AIDO.Cell" not in run_page(pages / "run" / "2026-01-01" / "b")
    assert text == run_page(pages / "run" / "2026-01-01" / "a")


def test_a_sweep_and_a_comparison(pages):
    sweep, both = (pages / "sweep.html").read_text(), (pages / "both.html").read_text()
    assert "sae.k" in sweep
    assert ">16<" in sweep
    assert "A: One." in both
    assert "B: One." in both
    assert "latent/gap" in both


def test_a_run_that_failed_says_so(tmp_path):
    with pytest.raises(RuntimeError), Run(tmp_path, "fit", {}):
        raise RuntimeError("no luck")
    assert "A run is failed: RuntimeError: no luck" in run_page(tmp_path)


@pytest.fixture
def opened(open_page, pages):
    return lambda name, **options: open_page(pages / name, **options)


def column(page, table, number):
    return page.locator("table").nth(table).locator(f"tbody tr td:nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("name", ["run.html", "sweep.html", "both.html"])
def test_it_loads_offline_without_an_error(opened, name):
    page = opened(name)
    assert page.locator("h1").inner_text()
    for i in range(page.locator("figure svg").count()):
        box = page.locator("figure svg").nth(i).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100


def test_tables_sort_by_value_both_ways(opened):
    page = opened("run.html")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    recipe = page.locator("details.part", has=page.get_by_role("heading", name="Recipe latent"))
    head = recipe.get_by_role("button", name="theta")

    def read():
        return [float(cell) for cell in recipe.locator("tbody tr td:nth-child(2)").all_inner_texts()]

    unsorted = read()
    head.click()
    assert read() == sorted(unsorted)
    head.click()
    assert read() == sorted(unsorted, reverse=True)
    assert unsorted != sorted(unsorted)
    assert recipe.locator("th[aria-sort=descending]").count() == 1


def test_it_is_used_by_keyboard_alone(opened):
    page = opened("run.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "recipe":
            break
    first = column(page, 0, 1)
    page.keyboard.press("Enter")
    assert column(page, 0, 1) == sorted(first)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_no_wider_than_the_window_and_begins_with_the_answer(opened, width):
    page = opened("run.html", viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    order = (".answer", "nav", "table", "figure", "#claims", "details.part")
    places = [page.locator(one).first.bounding_box()["y"] for one in order]
    assert places == sorted(places)
    if width == 1280:  # the first table is seen whole, with its last column
        assert page.locator(".scroll").first.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_figures_have_one_scale(opened):
    page = opened("run.html", viewport={"width": 1280, "height": 800})
    widths = [page.locator("figure svg").nth(i).bounding_box()["width"] for i in range(3)]
    assert widths == pytest.approx([992, 320, 320], abs=1)
    text = page.locator("figcaption").first.inner_text()
    assert text == CAPTIONS["before_after"]
    page = opened("run.html", viewport={"width": 390, "height": 800})
    assert page.locator("figure svg").first.bounding_box()["width"] > 500  # scrolled to, and not shrunk until none can read it
    assert page.locator("figure").first.bounding_box()["width"] < 390


def test_what_is_folded_opens_when_it_is_linked_to(opened):
    page = opened("run.html")
    recipe = page.get_by_role("link", name="Recipe latent")
    part = page.locator("details.part", has=page.get_by_role("heading", name="Recipe latent"))
    assert part.get_attribute("open") is None
    recipe.click()
    page.wait_for_function("document.querySelectorAll('details.part[open]').length === 1")
    assert part.get_by_role("button", name="theta").is_visible()


def test_the_null_stands_below_each_score_and_the_answer_is_grey_where_there_is_nothing(tmp_path):
    folder = make_run(tmp_path / "run")
    assert '<span class="under">[-0.25, 0.50]</span>' in run_page(folder)
    assert '<span class="under">[-25%, +50%]</span>' in run_page(folder)
    assert 'class="answer">They go along the way' in run_page(folder)
    assert "answer grey" not in run_page(folder)
    scores = pd.read_csv(folder / "scores.csv")
    scores.assign(p=0.5).to_csv(folder / "scores.csv", index=False)
    assert 'class="answer grey">Nothing' in run_page(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(opened, scheme):
    page = opened("run.html", color_scheme=scheme)
    colours = page.evaluate(
        "['color', 'backgroundColor'].map(x => getComputedStyle(document.body)[x].match(/\\d+/g).map(Number))"
    )
    text, ground = (sum(colour[:3]) / 3 for colour in colours)
    assert (text < 60 and ground > 240) if scheme == "light" else (text > 200 and ground < 40)
    if folder := os.environ.get("STEER_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{scheme}.png", full_page=True)


def test_it_prints_everything(opened, tmp_path):
    page = opened("run.html")
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("nav").is_hidden()
    assert json.loads(page.locator("pre").inner_text())["sae"] == {"k": 8}


def test_every_figure_that_is_saved_has_a_caption():
    package = Path(steerpipe.__file__).parent
    files = [*(package / "commands").glob("*.py"), *(package / "studies").rglob("*.py")]
    source = "".join(path.read_text() for path in files)
    names = set(re.findall(r'(?:run|found|out)\.figure\(f?"(\w+)(?:\{end\})?"', source)) | set(
        re.findall(r'save_figure\(folder, "(\w+)"', source)
    )
    assert len(names) > 10
    assert names | {"feature"} == set(captions())
    assert caption_of("feature_17") == CAPTIONS["feature"]
    assert caption_of("knockdown_expression", captions()) == captions()["knockdown"]
    assert caption_of("my_own") == "My own."
