"""The feature browser as a file, and in a headless Chromium: searched, sorted, opened, by keyboard and by fragment."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.browse import synthetic
from steerpipe.report.browser import Catalogue, browser_page


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "features.html"
    path.write_text(browser_page(synthetic(300, 50)))
    return path


@pytest.fixture
def opened(open_page, file):
    return lambda fragment="", path=file, **options: open_page(path, fragment, **options)


def numbers(page):
    return [int(text) for text in page.locator("#space .row .c-feature").all_inner_texts()]


def test_ten_thousand_features_fit():
    assert len(browser_page(synthetic(10_000)).encode()) < 25_000_000


def test_every_column_is_optional_and_text_is_escaped(opened, tmp_path):
    path = tmp_path / "few.html"
    path.write_text(browser_page(Catalogue(pd.DataFrame({"feature": [3, 5], "label": ["</script><b>x", ""]}))))
    assert "AIDO.Cell" not in path.read_text()
    page = opened("#f=3", path)
    assert numbers(page) == [3, 5]
    assert "</script><b>x" in page.locator("#card").inner_text()


def test_search_sort_and_card(opened):
    page = opened()
    assert "It is not AIDO.Cell" in page.locator(".warning").first.inner_text()
    assert page.locator("#space .row").count() < 60  # the others are drawn when they are scrolled to
    page.fill("#query", "cd8a")
    assert numbers(page) == [7]
    page.locator("#space .row").click()
    card = page.locator("#card").inner_text()
    assert "CD8A" in card
    assert "latent: a → b" in card
    assert "+0.5" in card
    assert page.locator("#card svg path").count() == 3
    inked = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    assert page.locator("#card canvas").evaluate(inked) > 20
    page.fill("#query", "")
    page.get_by_role("button", name="PR", exact=True).click()
    values = [float(text) for text in page.locator("#space .c-pr").all_inner_texts()]
    assert page.locator("[aria-sort=descending]").inner_text().startswith("PR")
    assert values == sorted(values, reverse=True)
    assert "f=7" in page.url
    assert "s=-pr" in page.url


def test_words_in_quotes_stand_together(opened, tmp_path):
    path = tmp_path / "words.html"
    labels = ["T cell activation", "cell adhesion to it", "B cell", ""]
    path.write_text(browser_page(Catalogue(pd.DataFrame({"feature": range(4), "label": labels}))))
    page = opened(path=path)
    for query, found in {"t cell": [0, 1], '"t cell"': [0], '"T cell" act': [0], '"b cell': [2], '"': [0, 1, 2, 3]}.items():
        page.fill("#query", query)
        assert numbers(page) == found, query


def test_titles_stand_over_their_columns(opened):
    page = opened()
    text = "node => { const r = new Range(); r.selectNodeContents(node); return r.getBoundingClientRect().right; }"
    for name in ("feature", "label", "pr"):
        title, cell = (page.locator(at).first for at in (f"#head [data-name={name}]", f"#space .c-{name}"))
        assert title.bounding_box()["x"] == pytest.approx(cell.bounding_box()["x"], abs=2)
        if name != "label":
            assert title.locator("button").evaluate(text) == pytest.approx(cell.evaluate(text), abs=2)


def test_a_fragment_opens_what_it_names(opened):
    page = opened("#f=7&q=cd8")
    assert page.locator("#card h2").inner_text() == "Feature 7"
    assert page.input_value("#query") == "cd8"
    page.evaluate("location.hash = '#f=8'")
    page.wait_for_function("document.querySelector('#card h2').textContent === 'Feature 8'")


def test_it_is_used_by_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("kinase")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    third = numbers(page)[2]
    assert page.locator("#card h2").inner_text() == f"Feature {third}"
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert page.locator("[aria-selected=true] .c-feature").inner_text() == str(third)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_schemes_and_widths_can_be_read(opened, scheme, width):
    page = opened("#f=7", color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground[:3]) / 3 > 240) == (scheme == "light")
