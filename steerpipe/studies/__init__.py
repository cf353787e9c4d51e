"""Questions that take many fits side by side, one folder each; none imports another.

A study's folder has `study.py`, whose `study(pipeline)` returns `Findings`; what it computes is in `compute.py`, what people
read in `table.py`, what they look at in `figure.py`. Its `__init__.py` says what is asked, and holds CAPTIONS and, where the
study draws nulls, `null_fits`; both are read without running it, so nothing heavy is imported there.
"""
