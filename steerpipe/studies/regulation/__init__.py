"""Whether a model encodes regulation, or co-expression alone: a TF's token against its targets'."""

from __future__ import annotations

CAPTIONS = {
    "regulation": "Left: how often a TF's token moves a target more than a gene matched in expression and co-expression "
    "(filled: q < .05), with the 95 % range of its null; crosses: against all other genes. Middle: the TF's effect on its "
    "targets against theirs on it. Right: shares of the TFs, and agreement of signs, beside the controls and another "
    "model's rates.",
}
"""What is seen in each figure."""
