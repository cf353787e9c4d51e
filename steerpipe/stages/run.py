"""`steer run`: the whole experiment."""

from __future__ import annotations

from .common import Context
from .dictionary import dictionary
from .evaluate import evaluation, report
from .extract import activations
from .plot import draw


def main(context: Context) -> None:
    """Build whatever is missing, score it and draw it."""
    found = evaluation(context)
    context.run.metrics(dictionary(context, activations(context)).scores)
    report(context, found)
    draw(context, found)
