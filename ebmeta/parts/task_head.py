r"""The head of a general classifier, which looks at directions from the centre of each task.

$$ \phi(x) = \Big( \frac{x - \bar x_t}{\lVert x - \bar x_t \rVert},\, c_0 \Big), \qquad
   \bar x_t = \tfrac12 \operatorname{mean}_i x_{ti} + \tfrac12 \operatorname{mean}_c \bar x_{tc} $$

It needs no training rows, and takes any number of features. For features of one number it may have a metric, which
training rows tell (`ebmeta.parts.metric`): rows are then seen in it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ebmeta.parts.heads import CONSTANT, Head
from ebmeta.parts.metric import measured_frame
from ebmeta.parts.task_features import TaskFeatures, geometry
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["TaskHead"]

PLANNED = 1025  # weights of a class, where features may be any


class TaskHead(Head):
    r"""Directions of features from the centre of their own task, and a constant.

    Labelled classes count alike in the second half, whatever the class proportions of the queries. Where fewer than two
    classes have a label or an anchor, the first half is all: a lone class would be its own centre.

    Args:
        num_features: features per input, $D$, in a metric of their own; 0 for any number of them, without one.
    """

    name = "task"
    own_units = False

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
        raise ValueError("features: expected all rows of a task together for a general classifier, got some of them")

    def of_embedded(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        return self.embed(x)

    def of_task(self, batch: TaskBatch, own: Tensor | None = None) -> TaskFeatures:
        support, query, anchor = batch.support_x.flatten(2), batch.query_x.flatten(2), batch.anchor
        if self.num_features and query.shape[2] != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features per input, got {query.shape[2]}")
        center, reach = _frame(batch, support, query)

        def direct(x: Tensor, mask: Tensor) -> Tensor:
            off = ((x.double() - center) / reach).to(self.like.dtype).masked_fill(~mask.unsqueeze(-1), 0.0)
            off = off @ self.metric if self.num_features else off
            return functional.pad(functional.normalize(off, dim=-1, eps=1e-6), (0, 1), value=CONSTANT)

        stands = None
        if anchor is not None and batch.anchor_size is not None:
            stands = direct(anchor.flatten(2), batch.anchor_size > 0)
        of_support, of_query = direct(support, batch.support_mask), direct(query, batch.query_mask)
        return TaskFeatures(of_support, of_query, stands, geometry(of_support[..., :-1], of_query[..., :-1], batch))

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
