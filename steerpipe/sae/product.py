"""Matrix products on a CPU that are the same bits whatever the number of threads."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

ROWS = 128
"""Rows of the result that one thread makes at a time."""


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return a (n, K) @ b (K, m) + bias (m,), float32.

    BLAS cuts a product up by its threads, and sums the last rows or columns of a piece in another order than the rest.
    Here pieces of so many rows are each made by one thread, however many there are.
    """
    out = torch.empty(len(a), b.shape[1]) if out is None else out

    def piece(start: int) -> None:
        rows = slice(start, start + ROWS)
        with torch.no_grad():
            if bias is None:
                torch.mm(a[rows], b, out=out[rows])
            else:
                torch.addmm(bias, a[rows], b, out=out[rows])

    # at one thread too: a thread of the pool is what BLAS sees as one
    list(_pool(torch.get_num_threads()).map(piece, range(0, len(a), ROWS)))
    return out


@functools.cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "product", initializer=torch.set_num_threads, initargs=(1,))
