r"""The head of a general classifier, which looks at directions from the centre of each task.

$$ \phi(x) = \Big( \frac{x - \bar x_t}{\lVert x - \bar x_t \rVert},\, c_0 \Big), \qquad
   \bar x_t = \tfrac12 \operatorname{mean}_i x_{ti} + \tfrac12 \operatorname{mean}_c \bar x_{tc} $$

It needs no training rows, and takes any number of features. For features of one number it may have a metric, which
training rows tell (`ebmeta.parts.metric`): rows are then seen in it.

Directions lose what lies in a line with the centre. Where rows off it, $o_i$, vary in fewer directions than $C$ classes
have between them, lengths count, too,

$$ \phi(x) \propto \frac{o}{\sqrt{\lVert o \rVert^2 + \rho\, \overline{\lVert o_i \rVert^2}}}, \qquad
   \rho = 2 \Big[ \frac{\max(C - 1, 3/2)^2}{d^2} - 1 \Big]_+ \Big[ 1 - \frac{\hat k}{8} \Big]_+ , \qquad
   d = \frac{\sum_{i \ne j} \lVert o_i \rVert^2 \lVert o_j \rVert^2}{\sum_{i \ne j} (o_i^\top o_j)^2} , $$

with a mean square of 1 over all rows, and $\hat k$ independent coordinates within clusters (`ebmeta.parts.clusters`).
Two classes have one direction between them; in one dimension that is a sign, which tells a class and not how surely.
Features of encoders have more than eight coordinates, and stay directions. Then rows borrow from their nearest
neighbours (`ebmeta.parts.neighbours`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.parts.heads import CONSTANT, Head
from ebmeta.parts.metric import measured_frame
from ebmeta.parts.neighbours import borrowed
from ebmeta.parts.task_features import MOST, TaskFeatures, evenly_spaced, geometry_of, taken
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["TaskHead"]

PLANNED = 1025  # weights of a class, where features may be any
MANY = 8.0  # independent coordinates, from which on directions are all
LENGTHS = 2.0  # how much lengths count
SIGN = 1.5  # directions, below which they are hardly more than a sign


class TaskHead(Head):
    r"""Directions of features from the centre of their own task, and a constant.

    Labelled classes count alike in the second half, whatever the class proportions of the queries. Where fewer than two
    classes have a label or an anchor, the first half is all: a lone class would be its own centre.

    Args:
        num_features: features per input, $D$, in a metric of their own; 0 for any number of them, without one.
    """

    name = "task"
    own_units = False
    by_task = True

    metric: Tensor

    def __init__(self, num_features: int = 0) -> None:
        super().__init__(num_features, None, False)
        if num_features:
            self.register_buffer("metric", torch.eye(num_features))

    @property
    def num_weights(self) -> int:
        """Weights per class, $P$, one per feature and one for the constant; what memory is planned for if any."""
        return self.num_features + 1 if self.num_features else PLANNED

    @property
    def any_features(self) -> bool:
        return not self.num_features

    @property
    def measured(self) -> bool:
        return self.any_features or bool(self.center.any())

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.flatten(2)
        if self.num_features and x.shape[2] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features per input, got {x.shape[2]}")
        return x

    def of_embedded(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        raise ValueError("features: expected all rows of a task together for a general classifier, got some of them")

    def of_task(self, batch: TaskBatch, own: Tensor | None = None) -> TaskFeatures:
        support, query, anchor = self.embed(batch.support_x), self.embed(batch.query_x), batch.anchor
        center, reach = _frame(batch, support, query)

        def off_center(x: Tensor, mask: Tensor) -> Tensor:
            off = ((x.double() - center) / reach).to(self.like.dtype).masked_fill(~mask.unsqueeze(-1), 0.0)
            return off @ self.metric if self.num_features else off

        rows = [off_center(support, batch.support_mask), off_center(query, batch.query_mask)]
        if anchor is not None:
            assert batch.anchor_size is not None  # for the type checker
            rows.append(off_center(anchor.flatten(2), batch.anchor_size > 0))
        directions = [functional.normalize(off, dim=-1, eps=1e-6) for off in rows]
        directions = _with_lengths(rows, directions, batch)
        found = geometry_of(directions[0], directions[1], batch, *directions[2:])
        directions[:2] = borrowed(directions[0], directions[1], batch)
        seen = [functional.pad(u, (0, 1), value=CONSTANT) for u in directions]
        return TaskFeatures(seen[0], seen[1], seen[2] if anchor is not None else None, found)

    def _take(self, rows: TrainingRows) -> None:
        """Take the metric of features of one number; the middle of a task is its own."""
        if not self.measured:
            center, metric = measured_frame(rows.x.flatten(1), rows.cluster)
            self.center.copy_(center)
            if metric is not None:
                self.metric.copy_(metric)


def _frame(batch: TaskBatch, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre of each task, shape `(T, 1, D)`, and the largest number off it, shape `(T, 1, 1)`."""
    rows = [(support.double(), batch.support_mask.unsqueeze(-1)), (query.double(), batch.query_mask.unsqueeze(-1))]
    number = sum(mask.sum(1, keepdim=True) for _, mask in rows)
    everything = sum((x * mask).sum(1, keepdim=True) for x, mask in rows) / number
    member = functional.one_hot(batch.support_y.clamp(min=0), batch.way_mask.shape[1]).double() * rows[0][1]
    sums, counts = member.mT @ rows[0][0], member.sum(1).unsqueeze(-1)
    if batch.anchor is not None and batch.anchor_size is not None:
        size = batch.anchor_size.double().unsqueeze(-1)
        sums, counts = sums + size * batch.anchor.flatten(2).double().masked_fill(size <= 0, 0.0), counts + size
    labelled = (counts > 0).double()
    classes = (sums / counts.clamp(min=1e-300)).mul(labelled).sum(1, keepdim=True)
    share = labelled.sum(1, keepdim=True)
    center = torch.where(share > 1, (everything + classes / share.clamp(min=1)) / 2, everything)
    reach = torch.cat([((x - center).abs() * mask).flatten(1) for x, mask in rows], 1).amax(1)[:, None, None]
    return center, torch.where(reach > 0, reach, 1.0)


def _varied(rows: Tensor, mask: Tensor) -> Tensor:
    """Return in how many directions rows vary, $d$, shape `(T,)`, of up to 512 of them; infinity where they do not."""
    chosen, real = evenly_spaced(rows, mask, rows.sum(1), MOST)
    some = (taken(rows, chosen) * real.unsqueeze(-1)).double()
    square = some.square().sum(-1)
    alone = square.square().sum(1)
    products = some.mT @ some if some.shape[2] < some.shape[1] else some @ some.mT
    number = (square.sum(1).square() - alone) / (products.square().sum((1, 2)) - alone).clamp(min=1e-300)
    return torch.where(number > 0, number, torch.inf)


def _with_lengths(rows: Sequence[Tensor], directions: list[Tensor], batch: TaskBatch) -> list[Tensor]:
    r"""Return rows whose lengths count where they vary in few directions, and the directions of other tasks.

    Args:
        rows: off the centre, zero for padding: of labelled rows, queries and, where there are any, anchors.
        directions: of these.
        batch: the tasks.
    """
    every, mask = torch.cat(list(rows[:2]), 1), torch.cat([batch.support_mask, batch.query_mask], 1)
    fewer = ((batch.way_mask.sum(1) - 1).clamp(min=SIGN) / _varied(every, mask)).square() - 1
    if not bool((fewer > 0).any()):
        return directions
    k = geometry_of(directions[0], directions[1], batch, *directions[2:]).clusters.coordinates
    rho = (LENGTHS * fewer.clamp(min=0) * (1 - k / MANY).clamp(min=0))[:, None, None]
    total, number = every.double().square().sum((1, 2)), mask.sum(1)
    usual = rho * (total / number)[:, None, None]

    def soft(off: Tensor) -> Tensor:
        return off / (off.square().sum(-1, keepdim=True) + usual).clamp(min=1e-24).sqrt()

    unit = (soft(every).square().sum((1, 2)) / number).clamp(min=1e-24).sqrt()[:, None, None]
    return [torch.where(rho > 0, (soft(off) / unit).to(u.dtype), u) for off, u in zip(rows, directions, strict=True)]
