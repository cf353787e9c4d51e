"""Coordinate descent on a small quadratic with an L1 penalty and bounds: the inner problem of both solvers."""

from __future__ import annotations

from numba import njit


@njit(cache=True)  # type: ignore[misc,unused-ignore]
def descend(gram, b, theta, half_lam, lo, hi, tol, max_sweeps):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Cyclic coordinate descent on theta' gram theta - 2 b' theta + 2 half_lam |theta| on [lo, hi], in place."""
    n = len(b)
    g = gram @ theta
    for _ in range(max_sweeps):
        worst = 0.0
        for j in range(n):
            if gram[j, j] <= 0.0:
                continue
            old = theta[j]
            rho = b[j] - g[j] + gram[j, j] * old
            if rho > half_lam:
                new = (rho - half_lam) / gram[j, j]
            elif rho < -half_lam:
                new = (rho + half_lam) / gram[j, j]
            else:
                new = 0.0
            new = min(max(new, lo), hi)
            if new != old:
                step = new - old
                for i in range(n):
                    g[i] += gram[j, i] * step
                theta[j] = new
                worst = max(worst, gram[j, j] * step * step)
        if worst <= tol:
            return
