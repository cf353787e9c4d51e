"""One self-contained HTML page for a run, a sweep or a comparison: figures and tables inside, nothing from the network.

Cost: the page holds the figures' SVG and at most 300 rows a table; a figure whose SVG is over 700 kB goes in as its PNG.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import EMBEDDED
from ..data.contrast import side_names
from ..evaluate.inference import LEVEL, answer
from ..evaluate.tables import GREY, SHOWN, cell
from ..plot.captions import CAPTIONS, caption_of

FIRST = ("headline", "mirror_boxplot", "plane")
"""The figures that a page begins with."""
MAX_ROWS = 300
MAX_SVG = 700_000
PIXELS = 80
"""Pixels of the page that an inch of a figure takes, so that all have one scale."""
DPI = 150
"""Of a figure's PNG, and POINTS of its SVG, an inch."""
POINTS = 72
ANSWERED = ("run", "evaluate")
"""The commands whose scores are answered in three sentences; the others' conclusions stand as they are."""
MOST_LINES = 4
SPACES = {
    "layer": "latent (layer)",
    "final": "latent (final)",
    "layer_nearest": "10 nearest",
    "de_up": "DE up",
    "de_down": "DE down",
    "de_up_unseen": "DE up, unseen",
    "de_down_unseen": "DE down, unseen",
}
POPULATIONS = {"layer": "steered layer", "final": "final LayerNorm", "expression": "predicted expression"}
NOTES = {
    "headline": "Held-out cells as a population. E-distance to the target: -100 % is arrival; gap: 0 nothing, 1 arrived; "
    "orthogonal: what else moved; probe: mean p(target); C2ST: .5 cannot be told from real target cells; spread: below 1 is "
    "contracted. Brackets: 95 % of the fits to cells dealt at random between the sides; grey: they do as well (p > 0.05). "
    "First the fits, then controls.",
    "scores": "The published reading. Held-out cells: share that ends closer to the target (median change of distance; below 0 "
    "is closer). One recipe moves all cells alike: they are no replicates of it, and shrinking together is closer too.",
    "recipe": "Features with theta = alpha - 1 other than 0, strongest first. alpha = 1 changes nothing.",
    "markers": "Share of the gap between source and target that steering closes, predicted: 0 none, 1 all, below 0 "
    "the wrong way.",
    "genes": "Predicted expression of source, steered and target cells; the largest gaps between source and target first.",
}
CITE = (
    "steerpipe {version}. The published steering study: “Dissecting and Steering Cell Identity in a Single-Cell Foundation "
    "Model Using Sparse Autoencoders”, MLGenX 2026 (OpenReview 6B3zp01ubG).",
    "AIDO.Cell: Ho et al. 2024, “Scaling dense representations for single cell with transcriptome-scale context”.",
    "TopK sparse autoencoders: Gao et al. 2024, arXiv:2406.04093. Proximal quasi-Newton: Lee, Sun and Saunders 2014.",
)
CLAIMS = (
    "That steering a model's activations says what a real cell would do: this is a statement about the model.",
    "That a number here holds on other data, donors, layers or models: it was measured on the cells named below.",
    "That a recruited feature is a cause: an effect that the controls show as well is not one of the recipe's own.",
)
MINI = "The model is {}, a small network of our own. It is not AIDO.Cell, and nothing here says anything about AIDO.Cell."


@dataclass
class Table:
    """A sortable table: columns, and rows of (text shown, value sorted by); a second line of a text is set small."""

    title: str
    columns: list[str]
    rows: list[list[tuple[str, Any]]]
    note: str = ""
    strong: set[int] = field(default_factory=set)
    folded: bool = False

    @property
    def numeric(self) -> set[int]:
        """The columns that hold numbers, to be set flush right."""
        return {i for i in range(len(self.columns)) if any(isinstance(row[i][1], (int, float)) for row in self.rows)}


def run_page(folder: Path, captions: Mapping[str, str] = CAPTIONS) -> str:
    """Return the page of one run folder: what is there is shown, whichever command made it.

    Parameters
    ----------
    captions : figure -> what is seen in it
    """
    manifest, metrics = _json(folder / "manifest.json"), _json(folder / "metrics.json")
    tables = []
    if (folder / "scores.csv").is_file():
        scores = pd.read_csv(folder / "scores.csv")
        tables += [_headline(scores), _per_cell(scores)]
    features = _features(folder)
    for file in sorted(folder.glob("recipe*.csv")):
        title = " ".join(["Recipe", *file.stem.split("_")[1:]])
        frame = pd.read_csv(file)
        for extra in features:
            new = [c for c in extra if c not in frame]
            frame = frame.merge(extra[["feature", *new]], on="feature", how="left") if new and "feature" in frame else frame
        tables.append(_frame(title, frame, NOTES["recipe"]))
    if (folder / "markers.csv").is_file():
        tables.append(_frame("Markers", pd.read_csv(folder / "markers.csv"), NOTES["markers"]))
    if (folder / "genes.csv").is_file():
        genes = pd.read_csv(folder / "genes.csv")
        if len(genes) and {"source", "target"} <= set(genes):
            order = np.argsort(-(genes["target"] - genes["source"]).abs(), kind="stable")
            tables.append(_frame("Genes", genes.iloc[order], NOTES["genes"]))
    if metrics:
        tables.append(Table("Numbers", ["metric", "value"], [[_cell(key), _cell(value)] for key, value in metrics.items()]))
    known = {"scores", "headline", "markers", "genes", *(f.stem for f in folder.glob("recipe*.csv"))}
    for file in sorted(folder.glob("*.csv")):
        if file.stem not in known:
            tables.append(_frame(file.stem.replace("_", " ").capitalize(), pd.read_csv(file)))
    for table in tables[1:]:
        table.folded = True
    stage = manifest.get("stage", "run")
    conclusion = folder / "conclusion.txt"
    lines = conclusion.read_text().splitlines() if conclusion.is_file() else []
    said = answer(pd.read_csv(folder / "scores.csv")) if stage in ANSWERED and (folder / "scores.csv").is_file() else []
    if said:
        first = [(line, said[0].startswith("Nothing")) for line in said]
    else:
        first = [(line, _nothing(line)) for line in lines[:MOST_LINES]]
        lines = lines[MOST_LINES:]
    return _render(f"steer {stage}", [manifest], tables, _figures(folder, "", captions), first, lines)


def sweep_page(name: str, manifests: Sequence[Mapping[str, Any]], columns: list[str], rows: list[dict[str, Any]]) -> str:
    """Return the page of a sweep: one row a job, with what was swept and every number."""
    table = Table("Jobs", columns, [[_cell(row.get(column)) for column in columns] for row in rows])
    return _render(f"sweep {name}", list(manifests), [table], [])


def comparison_page(
    a: Path,
    b: Path,
    config: Mapping[str, Sequence[Any]],
    metrics: Mapping[str, Sequence[Any]],
    captions: Mapping[str, str] = CAPTIONS,
) -> str:
    """Return the page of two runs: settings and numbers that differ, and their figures in turn."""
    tables = []
    for title, rows in {"Settings that differ": config, "Numbers that differ": metrics}.items():
        cells = [[_cell(key), _cell(left), _cell(right), _cell(_minus(right, left))] for key, (left, right) in rows.items()]
        tables.append(Table(title, ["name", "A", "B", "B - A"], cells, "" if cells else "None."))
    figures = [*_figures(a, "A: ", captions), *_figures(b, "B: ", captions)]
    figures.sort(key=lambda figure: figure["title"][3:])
    return _render("comparison", [_json(a / "manifest.json"), _json(b / "manifest.json")], tables, figures)


def write_page(path: Path, html: str) -> None:
    """Write a page beside, then rename it."""
    beside = path.with_suffix(".tmp")
    beside.write_text(html)
    beside.replace(path)


def _nothing(line: str) -> bool:
    """Whether a line of a conclusion says that there is nothing."""
    return line.startswith("Nothing") or ": nothing" in line or "nothing is claimed" in line


def _render(
    title: str,
    manifests: list[Any],
    tables: list[Table],
    figures: list[dict[str, str]],
    said: Sequence[tuple[str, bool]] = (),
    further: Sequence[str] = (),
) -> str:
    """Lay out a page: `said` comes first, each line with whether it is grey, `further` is folded."""
    from jinja2 import Environment, StrictUndefined

    source = files("steerpipe.report").joinpath("template.html").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    first = manifests[0] if manifests else {}
    models = {m.get("config", {}).get("model", {}).get("path") for m in manifests}
    warnings = [MINI.format(name) for name in EMBEDDED if name in models]
    warnings += sorted({m["licence"]["licence"] for m in manifests if "non-commercial" in str(m.get("licence"))})
    for manifest in manifests:
        if manifest.get("status") not in ("done", "running"):
            warnings.append(f"A run is {manifest.get('status')}: {manifest.get('error', '')}")
    version = first.get("versions", {}).get("steerpipe", "")
    return template.render(
        title=title,
        manifests=manifests,
        first=first,
        what=_what(first.get("config", {})),
        warnings=warnings,
        said=said,
        further=further,
        grey=GREY,
        tables=tables,
        figures=figures,
        config=json.dumps(first.get("config", {}), indent=1),
        cite=[line.format(version=version) for line in CITE],
        claims=CLAIMS,
    )


def _what(config: Mapping[str, Any]) -> str:
    """One line: model, data, contrast."""
    if not config:
        return ""
    data = config["dataset"].get("path") or config["dataset"]["name"]
    contrast = config.get("contrast", {})
    sides = side_names(contrast.get("source"), contrast.get("target"), halves=contrast.get("halves", False))
    return f"{config['model']['path']} · {data} · {' → '.join(sides)}"


def _headline(scores: pd.DataFrame) -> Table:
    """Did the population change identity? A row a recipe and space, a column a score; within its null is grey."""
    held = scores[(scores["split"] == "held") & scores["score"].isin(list(SHOWN))]
    rows: list[list[tuple[str, Any]]] = []
    strong: set[int] = set()
    for (recipe, space), group in held.groupby(["recipe", "space"], sort=False):
        if (group["kind"] == "recipe").any():
            strong.add(len(rows))
        table = group.set_index("score")
        row = [_cell(str(recipe)), _cell(POPULATIONS.get(str(space), str(space)))]
        for name in SHOWN:
            there = name in table.index
            value, p = (float(table.loc[name, key]) if there else np.nan for key in ("value", "p"))
            text = cell(name, value, p)
            if there and np.isfinite(table.loc[name, "null_lo"]):
                text += f"\n[{cell(name, table.loc[name, 'null_lo'])}, {cell(name, table.loc[name, 'null_hi'])}]"
            row.append((text, value if np.isfinite(value) else ""))
        rows.append(row)
    return Table("Did the population change identity?", ["recipe", "space", *SHOWN.values()], rows, NOTES["headline"], strong)


def _per_cell(scores: pd.DataFrame) -> Table:
    """The published reading: a row a recipe, a column a space, held-out cells."""
    held = scores[(scores["split"] == "held") & scores["score"].isin(["closer", "change"])]
    spaces = [space for space in SPACES if space in set(held["space"])]
    rows: list[list[tuple[str, Any]]] = []
    strong: set[int] = set()
    for recipe, group in held.groupby("recipe", sort=False):
        if (group["kind"] == "recipe").any():
            strong.add(len(rows))
        row = [_cell(str(recipe))]
        table = group.set_index(["space", "score"])
        for space in spaces:
            if (space, "change") not in table.index:
                row.append(("", ""))
                continue
            change, p = table.loc[(space, "change"), ["value", "p"]].astype(float)
            share = f"{table.loc[(space, 'closer'), 'value']:.0%} " if (space, "closer") in table.index else ""
            grey = GREY if np.isfinite(p) and p > LEVEL else ""
            row.append((f"{grey}{share}({change:+.1%})", float(change)))
        rows.append(row)
    return Table("Distances per cell", ["recipe", *(SPACES[space] for space in spaces)], rows, NOTES["scores"], strong)


def _features(folder: Path) -> list[pd.DataFrame]:
    """Tables with one row a feature, such as its genes, GO terms and verdict: they join the recipe."""
    found = []
    for file in sorted(folder.glob("*.csv")):
        if file.stem.startswith("recipe"):
            continue
        frame = pd.read_csv(file)
        if "feature" in frame and frame["feature"].is_unique:
            found.append(frame)
    return found


def _frame(title: str, frame: pd.DataFrame, note: str = "") -> Table:
    if len(frame) > MAX_ROWS:
        note = f"{note} The first {MAX_ROWS} of {len(frame):,} rows; all are in the run folder.".strip()
    rows = [[_cell(value) for value in row] for row in frame.head(MAX_ROWS).itertuples(index=False)]
    return Table(title, [str(column) for column in frame], rows, note)


def _cell(value: Any) -> tuple[str, Any]:
    """The text of a value, and what it is sorted by."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "", ""
    if isinstance(value, (bool, np.bool_)):
        return str(value), str(value)
    if isinstance(value, (int, np.integer)):
        return str(value), int(value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}", float(value)
    return str(value), str(value)


def _minus(right: Any, left: Any) -> Any:
    numbers = [isinstance(x, (int, float)) and not isinstance(x, bool) for x in (left, right)]
    return right - left if all(numbers) else None


def _figures(folder: Path, prefix: str, captions: Mapping[str, str]) -> list[dict[str, str]]:
    """Every figure of a run folder as inline SVG, or as a PNG where that is much smaller."""
    found = []
    files = sorted((folder / "plots").glob("*.svg"), key=lambda file: (file.stem not in FIRST, file.name))
    for number, file in enumerate(files):
        title = prefix + caption_of(file.stem, captions)
        if file.stat().st_size <= MAX_SVG:
            svg = file.read_text()
            inches = float(re.findall(r'<svg[^>]*? width="([\d.]+)pt"', svg)[0]) / POINTS
            markup = _inline(svg, f"{prefix[:1]}{number}-")
        else:
            png = file.with_suffix(".png").read_bytes()
            inches = struct.unpack(">I", png[16:20])[0] / DPI
            markup = f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        found.append({"title": title, "markup": markup, "width": str(round(PIXELS * inches))})
    return found


def _inline(svg: str, prefix: str) -> str:
    """An SVG for a page that has others: no prolog or metadata, ids of its own, scaled to the page's width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(\bid=")', rf"\g<1>{prefix}", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}
