r"""How the rows of a task lie about the centres of classes, by a rough clustering.

A soft $k$-means of sharpness $\lambda$ starts from the labelled rows. Each unlabelled unit vector $u_i$ has a share in
every class, and is left out of the centres that it is compared with,

$$ r_{ic} \propto e^{-\lambda ( d_{ic} + 1 / 2 (N_c^{-i} + 1) )}, \qquad
   d_{ic} = \lVert u_i - m_c^{-i} \rVert^2, \qquad
   m_c^{-i} = \frac{\sum_{j \ne i} r_{jc} u_j}{N_c^{-i} + 1}, \qquad N_c^{-i} = \sum_{j \ne i} r_{jc} , $$

with sums over labelled rows, too. What rows leave about their centres has a variance and a number of coordinates,

$$ \hat s = \frac{1 + \delta}{Q} \sum_{i, c} r_{ic} d_{ic}, \qquad
   \hat k = \Big[ \operatorname*{mean}_{i \ne j} \cos^2 \Big( u_i - \sum_c r_{ic} m_c,\; u_j - \sum_c r_{jc} m_c \Big)
   \Big]^{-1} . $$

Unit vectors are directions from a centre that is half the mean of all rows and half that of class means
(`ebmeta.parts.task_head`). Its error is common to the unlabelled rows, and looks as if classes lay apart by
$\delta \hat s$,

$$ \delta = \frac14 \Big( \frac{1}{C^2} \sum_c \frac{1}{n_c} - \frac1N \Big) $$

with $n_c$ labelled rows of the $C$ classes that have any, and $N$ rows in all. What is left between classes,
$1 - \hat s$, is at least $2 \sqrt{2 C / \hat k} / Q$, twice the standard error that it has where rows do not cluster.
So directions of pure noise have next to nothing between classes, the less the more coordinates there are.

In many dimensions classes may lie apart by less than a rough clustering finds. Where they have several labelled rows,
these tell what is there at least, up to a small part $b_0$ of the variance,

$$ \min \Big( b_0,\; \operatorname*{mean}_{y_i = y_j} u_i^\top u_j - \operatorname*{mean}_{y_i \ne y_j} u_i^\top u_j
   - 2 \sqrt{ (1 / n_= + 1 / n_{\ne}) / \hat k } \Big) , $$

two standard errors below what $n_=$ and $n_{\ne}$ pairs of rows say (`told_between`). Where more lies between rough
clusters, they decide: what the prior makes of them was learned.

There are at most as many coordinates as features that vary, so constant ones change nothing. It decides nothing: its
numbers are what the prior of a general classifier starts from (`ebmeta.parts.general_prior`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.likelihood import NEVER

__all__ = ["Clusters", "find_clusters", "told_between"]

STEPS = 5
SHARP = 20.0  # lambda: unit vectors of one class and of two differ by some tenths in squared distance
LEAST = 0.02  # of the variance about centres
STILL = 1e-6  # of a unit vector: what rounding leaves of a feature that is constant
SURE = 0.03  # b_0: nearly always rough clusters of encoders find more
ERRORS, HALF = 2.0, 0.5  # standard errors that are left between classes at least, but no more than half of the variance


@dataclass(frozen=True, eq=False)
class Clusters:
    r"""Numbers about the clusters of tasks, each of shape `(T,)`.

    Args:
        within: variance of a unit vector about the centre of its class, $\hat s$.
        coordinates: how many independent coordinates it has, $\hat k$.
        features: how many features vary, at least 1.
    """

    within: Tensor
    coordinates: Tensor
    features: Tensor


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
    square, r = u.square().sum(-1, keepdim=True), (real * ways.unsqueeze(1)).mul(0)
    n, total = counts, sums
    for _ in range(STEPS):
        weight = 1 / (n.unsqueeze(1) - r + 1)
        dot = u @ total.mT - r * square
        off = total.square().sum(-1).unsqueeze(1) - r * (2 * dot + r * square)
        d = (square - weight * (2 * dot - weight * off)).clamp(min=0)
        r = torch.softmax((-SHARP * (d + weight / 2)).masked_fill(~ways.unsqueeze(1), NEVER), -1) * real
        n, total = counts + r.sum(1), sums + r.mT @ u
    pair = mask.unsqueeze(1) & mask.unsqueeze(2) & ~torch.eye(u.shape[1], dtype=torch.bool, device=u.device)
    features = (u.abs().amax(1) > STILL).sum(1).clamp(min=1).to(u.dtype)
    coordinates = _coordinates(u - r @ (total / (n + 1).unsqueeze(-1)), pair, features)
    within = (r * d).sum((1, 2)) / number * (1 + _common(counts, number))
    least = ERRORS * (2 * ways.sum(1) / coordinates).sqrt() / number
    return Clusters(torch.minimum(within.clamp(min=LEAST), 1 - least.clamp(max=HALF)), coordinates, features)


def told_between(rows: Tensor, member: Tensor, coordinates: Tensor) -> Tensor:
    r"""Return what labelled rows say that lies between classes at least, up to $b_0$, shape `(T,)`.

    Args:
        rows: labelled rows $u$, unit vectors, zero for padding, shape `(T, S, D)`.
        member: 1 where a row is of a class, else 0, shape `(T, S, C)`.
        coordinates: $\hat k$, shape `(T,)`.
    """
    sums, counts, square = member.mT @ rows, member.sum(1), rows.square().sum((1, 2))
    number = counts.sum(1)
    same, pairs = sums.square().sum((1, 2)) - square, (counts.square() - counts).sum(1)
    other, others = sums.sum(1).square().sum(1) - square - same, number.square() - number - pairs
    pairs, others = (n.clamp(min=1) for n in (pairs, others))
    error = (2 * (1 / pairs + 1 / others) / coordinates).sqrt()
    least = same / pairs - other / others - ERRORS * error
    return torch.where(counts.amax(1) > 1, least, 0.0).clamp(0, SURE)


def _common(counts: Tensor, number: Tensor) -> Tensor:
    r"""Return what the error of the centre is of the variance of an unlabelled row, $\delta$, shape `(T,)`."""
    labelled = counts > 0
    of_means = torch.where(labelled, 1 / counts.clamp(min=1), 0.0).sum(1) / labelled.sum(1).clamp(min=1).square()
    return torch.where(labelled.sum(1) > 1, (of_means - 1 / (counts.sum(1) + number)) / 4, 0.0)


def _coordinates(rows: Tensor, pair: Tensor, features: Tensor) -> Tensor:
    """Return the effective number of coordinates that directions fill, of so many at most, shape `(T,)`."""
    unit = functional.normalize(rows, dim=-1, eps=1e-6)
    square = ((unit @ unit.mT).square() * pair).sum((1, 2)) / pair.sum((1, 2)).clamp(min=1)
    return torch.where(square > 0, torch.minimum(1 / square.clamp(min=1e-6), features), features).clamp(min=1)
