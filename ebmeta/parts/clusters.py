r"""How the rows of a task lie about the centres of classes, by a rough clustering.

A soft $k$-means of sharpness $\lambda$ starts from the labelled rows, each unlabelled unit vector $u_i$ having a share
in every class,

$$ r_{ic} \propto e^{-\lambda ( d_{ic} + 1 / 2 (N_c + 1) )}, \qquad d_{ic} = \lVert u_i - m_c \rVert^2, \qquad
   m_c = \frac{\sum_j r_{jc} u_j}{N_c + 1}, \qquad N_c = \sum_j r_{jc} , $$

with sums over labelled rows, too. What rows leave about their centres has a variance and a number of coordinates,

$$ \hat s = \frac1Q \sum_{i, c} r_{ic} d_{ic}, \qquad
   \hat k = \Big[ \operatorname*{mean}_{i \ne j} \cos^2 \Big( u_i - \sum_c r_{ic} m_c,\; u_j - \sum_c r_{jc} m_c \Big)
   \Big]^{-1} . $$

There are at most as many coordinates as features. It decides nothing: its numbers are what the prior of a general
classifier starts from (`ebmeta.parts.general_prior`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.likelihood import NEVER

__all__ = ["Clusters", "find_clusters"]

STEPS = 5
SHARP = 20.0  # lambda: unit vectors of one class and of two differ by some tenths in squared distance
LEAST, MOST = 0.02, 0.98  # of the variance


@dataclass(frozen=True, eq=False)
class Clusters:
    r"""Numbers about the clusters of tasks, each of shape `(T,)`.

    Args:
        within: variance of a unit vector about the centre of its class, $\hat s$.
        coordinates: how many independent coordinates it has, $\hat k$.
    """

    within: Tensor
    coordinates: Tensor


@torch.no_grad()
def find_clusters(u: Tensor, mask: Tensor, sums: Tensor, counts: Tensor, ways: Tensor) -> Clusters:
    r"""Return how unlabelled rows lie about class centres.

    Args:
        u: unlabelled rows $u$, unit vectors, zero for padding, shape `(T, N, D)`.
        mask: True where a row is real, shape `(T, N)`.
        sums: sum of labelled rows of each class, shape `(T, C, D)`.
        counts: how many there are, shape `(T, C)`.
        ways: True where a class exists, shape `(T, C)`.
    """
    real = mask.unsqueeze(-1).to(u.dtype)
    number = real.sum((1, 2)).clamp(min=1)
    n, total = counts, sums
    for _ in range(STEPS):
        weight = (1 / (n + 1)).unsqueeze(1)
        m = total * weight.mT
        d = (u.square().sum(-1, keepdim=True) - 2 * u @ m.mT + m.square().sum(-1).unsqueeze(1)).clamp(min=0)
        r = torch.softmax((-SHARP * (d + weight / 2)).masked_fill(~ways.unsqueeze(1), NEVER), -1) * real
        n, total = counts + r.sum(1), sums + r.mT @ u
    within = ((r * d).sum((1, 2)) / number).clamp(LEAST, MOST)
    pair = mask.unsqueeze(1) & mask.unsqueeze(2) & ~torch.eye(u.shape[1], dtype=torch.bool, device=u.device)
    return Clusters(within, _coordinates(u - r @ m, pair))


def _coordinates(rows: Tensor, pair: Tensor) -> Tensor:
    """Return the effective number of coordinates that directions fill, shape `(T,)`."""
    unit = functional.normalize(rows, dim=-1, eps=1e-6)
    square = ((unit @ unit.mT).square() * pair).sum((1, 2)) / pair.sum((1, 2)).clamp(min=1)
    return torch.where(square > 0, 1 / square.clamp(min=1e-6), float(rows.shape[-1])).clamp(1, rows.shape[-1])
