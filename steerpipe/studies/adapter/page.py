"""One page of all predictions, a section a perturbation: every arm's scores, the recipe, and the genes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from jinja2 import Environment

SCORES = {
    "arm": "arm",
    "pearson_delta": "r",
    "mae": "MAE",
    "discrimination_score_l1": "discrimination",
    "wmse": "weighted error",
}
WORDS = ("arm", "label", "genes", "gene")
"""Columns of text."""
GENES = 12
"""Genes of largest real change that are listed."""
TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Predicted perturbations</title>
<style>
:root { color-scheme: light dark; --line: #8884; --own: #0072b222; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 1.5rem auto; padding: 0 1rem; }
nav a { margin-right: .7em; white-space: nowrap; } p.where { opacity: .75; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
.tables { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .15rem .6rem .15rem 0; text-align: right; border-bottom: 1px solid var(--line); }
.tables > div { overflow-x: auto; max-width: 100%; }
th:first-child, td:first-child, .text { text-align: left; } tr.own { background: var(--own); }
@media print { nav { display: none; } section { break-inside: avoid; } }
</style>
<h1>Predicted perturbations</h1>
<p class="where">{{ where }}</p>
{% for line in said %}<p>{{ line }}</p>{% endfor %}
<nav>{% for one in sections %}<a href="#{{ one.name }}">{{ one.name }}</a> {% endfor %}</nav>
{% for one in sections %}
<section id="{{ one.name }}"><h2>{{ one.name }}{{ one.note }}</h2><div class="tables">
{% for table in one.tables %}<div><table><caption>{{ table.title }}</caption>
<tr>{% for name in table.columns %}<th{% if name in words %} class="text"{% endif %}>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr{% if row[0] in networks %} class="own"{% endif %}>
{% for cell in row %}<td{% if cell is string %} class="text"{% endif %}>{{ shown(cell) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endfor %}
</div></section>
{% endfor %}
</html>
"""


def predictions_page(
    scores: pd.DataFrame, features: pd.DataFrame, genes: pd.DataFrame, networks: Sequence[str], said: Sequence[str], where: str
) -> str:
    """Return the page, one file that needs nothing else.

    Parameters
    ----------
    scores, features, genes : the study's tables, of all arms
    networks : whose recipes are shown
    said : the conclusion
    where : model, data and dictionary
    """
    sections = []
    for name, some in scores.groupby("perturbation", sort=False):
        tables = [_table("scores, held-out cells", some[list(SCORES)].rename(columns=SCORES))]
        for arm in networks:
            mine = features[(features["arm"] == arm) & (features["perturbation"] == name)]
            recipe = mine[["feature", "theta", "label", "genes", "lost"]].rename(columns={"lost": "r lost without it"})
            tables.append(_table(f"recipe by {arm}", recipe))
        own = genes[(genes["arm"] == networks[-1]) & (genes["perturbation"] == name)]
        order = own["real"].abs().sort_values(ascending=False).index[:GENES]
        changes = own.loc[order, ["gene", "real", "predicted"]]
        tables.append(_table(f"largest real changes, and {networks[-1]}'s", changes))
        note = ", which neither model nor dictionary saw" if bool(some["unseen"].iloc[0]) else ""
        sections.append({"name": name, "note": note, "tables": tables})
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(sections=sections, said=said, where=where, networks=list(networks), words=WORDS, shown=_shown)


def _table(title: str, frame: pd.DataFrame) -> dict[str, object]:
    return {"title": title, "columns": list(frame), "rows": frame.astype(object).to_numpy().tolist()}


def _shown(cell: object) -> str:
    if cell is None or cell != cell:  # NaN
        return ""
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
