r"""The evidence of groups whose labels are not normal, by evenly spread draws of their weights.

$$ \log p_\psi(y_t) \approx \log \frac1S \sum_s \frac{p(y_t \mid w_s)\, p_\psi(w_s)}{r_t(w_s)}, \qquad w_s \sim r_t, $$

is the bound of `ebmeta.training.objective` with draws from a mixture $r_t$ of two Gaussians in equal parts. One is
$q_0$. The other is, in a fit, $q_0$ three times as wide: $q_0$ may be too narrow where labels are separated, and a
fit would make use of that. In a result it is the prior: no weight $p_\psi / r_t$ is then above 2, and a group of
counts whose evidence comes out above 0 has evidence 0. Draws are points of a Sobol sequence, shifted at random for
each group.

Sources: Hesterberg 1995, Weighted average importance sampling and defensive mixture distributions; Cranley and
Patterson 1976, Randomization of number theoretic methods for multiple integration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.batch import TaskBatch
from ebmeta.training.objective import importance_bound

__all__ = ["even_noise", "fitting_bound", "group_evidence"]

WIDE = 3.0  # times the scale of q_0: covers what separated labels leave open
EDGE = 1e-12  # of probability: a shifted point stays off 0 and 1


def even_noise(num_draws: int, shift: Tensor) -> Tensor:
    """Return standard normal numbers that are evenly spread in either half of the draws, shape `(S, T, 1, P)`.

    Args:
        num_draws: $S$.
        shift: where each half of each group starts, between 0 and 1, shape `(T, 2, P)`.

    Examples:
        >>> abs(even_noise(64, torch.full((1, 2, 1), 0.3)).mean().item()) < 0.05
        True
    """
    halves = (num_draws + 1) // 2, num_draws // 2
    sobol = torch.quasirandom.SobolEngine(shift.shape[-1])  # type: ignore[no-untyped-call]
    points = sobol.draw(halves[0]).to(shift)
    parts = [points[:number, None] + shift[:, half] for half, number in enumerate(halves)]
    out: Tensor = torch.special.ndtri((torch.cat(parts) % 1).clamp(EDGE, 1 - EDGE))
    return out.unsqueeze(2)


def fitting_bound(model: EmpiricalBayes, batch: TaskBatch, noise: Tensor) -> Tensor:
    """Return the log evidence of each group in nats, shape `(T,)`: smooth in the parameters, for a fit.

    Args:
        model: the model.
        batch: groups; every row counts as labelled.
        noise: see `even_noise`.
    """
    pooled = batch.pooled()
    inferred = model.infer(pooled, 0)
    q = inferred.path[-1]
    return importance_bound(inferred, pooled, noise, [q.with_(q.loc, q.precision / WIDE**2)])


def group_evidence(model: EmpiricalBayes, batch: TaskBatch, noise: Tensor) -> Tensor:
    """Return the log evidence of each group in nats, shape `(T,)`; arguments as of `fitting_bound`.

    Draws of the prior keep it from being far off, and make it rough in the parameters: it is for results.
    """
    pooled = batch.pooled()
    inferred = model.infer(pooled, 0)
    bound = importance_bound(inferred, pooled, noise, [inferred.prior])
    return bound.clamp(max=0.0) if model.likelihood.discrete else bound
