"""`steer run`: the whole experiment."""

from __future__ import annotations

from .common import Context
from .evaluate import evaluation, report
from .extract import activations
from .plot import draw
from .train_sae import dictionary


def main(context: Context) -> None:
    """Build whatever is missing, score it and draw it."""
    found = evaluation(context)
    context.run.metrics(dictionary(context, activations(context)).scores)
    report(context, found)
    draw(context, found)
