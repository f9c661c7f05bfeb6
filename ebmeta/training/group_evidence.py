r"""The evidence of groups whose labels are not normal, by evenly spread draws of their weights.

$$ \log p_\psi(y_t) \approx \log \frac1S \sum_s \frac{p(y_t \mid w_s)\, p_\psi(w_s)}{r_t(w_s)}, \qquad w_s \sim r_t, $$

is the bound of `ebmeta.training.objective` with draws from a mixture $r_t$ of Gaussians in equal parts. One is $q_0$.
In a fit another is $q_0$ three times as wide: $q_0$ may be too narrow where labels are separated, and a fit would make
use of that. In a result two others are $q_0$ one and a half times as wide, for tails heavier than those of $q_0$, and
the prior: no weight $p_\psi / r_t$ is then above 3, and a group of counts whose evidence comes out above 0 has evidence
0. Draws are points of a Sobol sequence, shifted at random for each group and part.

Sources: Hesterberg 1995, Weighted average importance sampling and defensive mixture distributions; Cranley and
Patterson 1976, Randomization of number theoretic methods for multiple integration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.tasks.batch import TaskBatch
from ebmeta.training.objective import importance_bound

__all__ = ["OF_FITS", "OF_RESULTS", "even_noise", "fitting_bound", "group_evidence"]

OF_FITS, OF_RESULTS = 2, 3  # Gaussians that share the draws
WIDE = 3.0  # times the scale of q_0: covers what separated labels leave open
TAILS = 1.5  # the same, in a result: of many weights a density three times as wide has hardly a draw that counts
EDGE = 1e-12  # of probability: a shifted point stays off 0 and 1


def even_noise(num_draws: int, shift: Tensor) -> Tensor:
    """Return standard normal numbers that are evenly spread in each part of the draws, shape `(S, T, 1, P)`.

    Args:
        num_draws: $S$.
        shift: where each of $R$ parts of each group starts, between 0 and 1, shape `(T, R, P)`.

    Examples:
        >>> abs(even_noise(64, torch.full((1, 2, 1), 0.3)).mean().item()) < 0.05
        True
    """
    sizes = [len(part) for part in torch.arange(num_draws).tensor_split(shift.shape[1])]
    sobol = torch.quasirandom.SobolEngine(shift.shape[-1])  # type: ignore[no-untyped-call]
    points = sobol.draw(sizes[0]).to(shift)
    parts = [points[:number, None] + shift[:, part] for part, number in enumerate(sizes)]
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
    q = inferred.path[-1]
    others = [q.with_(q.loc, q.precision / TAILS**2), inferred.prior]
    bound = importance_bound(inferred, pooled, noise, others)
    return bound.clamp(max=0.0) if model.likelihood.discrete else bound
