"""The latent objective as it is usually minimised: Adam on the loss plus an L1 term, whose slope is the sign of theta.

The published settings: a fixed number of steps, no stopping criterion, and values below a threshold reset to zero at the
end. Here to be compared with lasso.py, which solves the same problem; its duality gap says how far Adam stopped from the
optimum.
"""

from __future__ import annotations

import numpy as np
import torch

from .lasso import LassoFit, LatentProblem

STEPS = 500
LEARNING_RATE = 0.01
RESET = 1e-4


def solve(
    problem: LatentProblem, lam: float, *, steps: int = STEPS, lr: float = LEARNING_RATE, reset: float = RESET
) -> LassoFit:
    """Minimise the latent problem at one weight by Adam, in float32, from theta = 0.

    Cost: two products, O(N D F), a step.

    Parameters
    ----------
    reset : values below this end as 0

    Returns
    -------
    LassoFit
        with the objective and the relative duality gap of where Adam stopped
    """
    on = np.flatnonzero(problem.free)
    z, W, gaps = (torch.from_numpy(a).float() for a in (problem.z[:, on], problem.W[on], problem.gap_vectors))
    theta = torch.zeros(len(on), requires_grad=True)
    optimiser = torch.optim.Adam([theta], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (gaps - (z * theta) @ W).square().sum() / problem.n + lam * theta.abs().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    out = np.zeros(len(problem.W))
    out[on] = theta.detach().double().numpy()
    out[np.abs(out) < reset] = 0.0
    return LassoFit(lam, out, *problem.certificate(out, lam))
