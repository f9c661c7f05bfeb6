r"""The features of the rows of tasks, and the geometry that they have together, whatever the encoder that they are of.

A task shows how its rows lie: how many directions they fill, how near the nearest ones are, how far classes are apart
where labels tell. The numbers of `geometry` say it in one way for features of any number and unit, and are what the
prior of a general classifier is a function of (`ebmeta.parts.general_prior`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.tasks.batch import TaskBatch

__all__ = ["GEOMETRY", "TaskFeatures", "geometry"]

GEOMETRY = 12  # numbers of `geometry`
MOST = 512  # rows of a task that are compared with each other
NEAR = 5  # nearest rows
MANY = 100.0  # rows of a class, from which on more of them say the same


@dataclass(frozen=True, eq=False)
class TaskFeatures:
    r"""The features of all rows of tasks, with the constant last.

    Args:
        support: those of labelled rows, shape `(T, S, P)`.
        query: those of the queries, shape `(T, Q, P)`.
        anchor: those of the anchors of classes, shape `(T, C, P)`; None where there are none.
    """

    support: Tensor
    query: Tensor
    anchor: Tensor | None = None


@torch.no_grad()
def geometry(features: TaskFeatures, batch: TaskBatch) -> Tensor:
    r"""Return numbers about how the rows of each task lie, the same for any order of rows and classes, shape `(T, 12)`.

    With $u_i$ the directions of up to 512 rows, $N$ of them, and $g_{ij} = u_i^\top u_j$: the effective number of
    directions $N^2 / \sum_{ij} g_{ij}^2$ in logs; means of the largest, of the five largest and of all squared cosines
    with other rows; mean cosines of labelled rows of one class, and of two; how many classes, labelled rows and
    queries there are.

    Args:
        features: of the rows of a head whose features are unit vectors, and a constant.
        batch: the tasks.
    """
    support, query = features.support[..., :-1], features.query[..., :-1]
    mask = torch.cat([batch.support_mask, batch.query_mask], 1)
    u, real = _some(torch.cat([support, query], 1), mask, (support * batch.support_mask.unsqueeze(-1)).sum(1))
    count = real.sum(1).to(u.dtype)
    cosine = u @ u.mT
    pair = real.unsqueeze(1) & real.unsqueeze(2) & ~torch.eye(u.shape[1], dtype=torch.bool, device=u.device)
    pairs = pair.sum((1, 2)).clamp(min=1)
    square = (cosine.square() * pair).sum((1, 2))
    filled = ((square + count) / count.square()).clamp(min=1e-9).log()
    rms = (square / pairs).sqrt()
    near = cosine.masked_fill(~pair, -2.0).topk(min(NEAR, u.shape[1]), -1).values
    there = near > -1.5
    first = _mean(near[..., 0], there[..., 0])
    some = _mean(near, there)
    member = functional.one_hot(batch.support_y.clamp(min=0), batch.way_mask.shape[1]).to(u.dtype)
    member = member * batch.support_mask.unsqueeze(-1)
    sums, counts = member.mT @ support, member.sum(1)
    own = (sums.square().sum((1, 2)) - counts.sum(1)) / (counts * (counts - 1)).sum(1).clamp(min=1)
    other = sums.sum(1).square().sum(-1) - sums.square().sum((1, 2))
    others = (counts.sum(1).square() - counts.square().sum(1)).clamp(min=1)
    ways = batch.way_mask.sum(1).to(u.dtype)
    shots, queries = counts.sum(1) / ways, batch.query_mask.sum(1) / ways
    repeated = ((counts * (counts - 1)).sum(1) > 0).to(u.dtype)
    numbers = [-filled / 2 - 1, 3 * first - 1.5, 5 * rms - 1, 3 * some - 1.5, torch.log1p(10 * rms) - 1]
    numbers += [ways.log() - 1.6, (shots.clamp(max=MANY) + 0.1).log(), (queries.clamp(max=MANY) + 0.1).log() - 1]
    numbers += [3 * own, 3 * other / others, repeated, math.log(u.shape[2]) / 4 - 1 + torch.zeros_like(own)]
    return torch.stack(numbers, -1)


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """Return the mean over all but the first axis of what is there."""
    axes = tuple(range(1, values.dim()))
    return (values * there).sum(axes) / there.sum(axes).clamp(min=1)


def _some(rows: Tensor, mask: Tensor, toward: Tensor) -> tuple[Tensor, Tensor]:
    """Return up to so many rows of each task, evenly spaced in the order of their cosine with a vector."""
    if rows.shape[1] <= MOST:
        return rows * mask.unsqueeze(-1), mask
    order = (rows @ toward.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, math.inf).argsort(1)
    count = mask.sum(1, keepdim=True)
    place = torch.arange(MOST, device=rows.device).unsqueeze(0)
    spaced = torch.where(count > MOST, place * count // MOST, place)
    real = place < count
    chosen = order.gather(1, spaced.clamp(max=rows.shape[1] - 1))
    return rows.gather(1, chosen.unsqueeze(-1).expand(-1, -1, rows.shape[2])) * real.unsqueeze(-1), real
