r"""What every peer is: a callable from labelled support and unlabelled queries to class probabilities.

A peer computes scores $s_{tic}$, log-probabilities up to a constant of each query, and
$p_{tic} \propto \exp(s_{tic})$. Published confidences are a by-product of scales that were chosen for
accuracy, so a comparison rescales each peer by one temperature fitted on validation tasks,
$p_\tau \propto p^{1/\tau}$; scores are kept in logarithms, where this loses no digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ebmeta import TaskBatch

FLOOR = math.log(1e-30)  # of a log-probability, in nats


@dataclass
class Peer:
    """A few-shot method on fixed features, for a batch of tasks of equal size."""

    name: ClassVar[str]
    learns: ClassVar[bool] = False  # from labelled tasks, before it is called

    def scores(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        """Return unnormalised log-probabilities of the queries, shape `(T, Q, C)`, in nats."""
        raise NotImplementedError

    @torch.no_grad()
    def logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        """Return log-probabilities, at least log(1e-30).

        Args:
            support_x: support features $x^s$, shape `(T, S, D)`.
            support_y: support labels $y^s$, every class at least once, shape `(T, S)`.
            query_x: query features $x^q$, shape `(T, Q, D)`.
            n_way: number of classes $C$.

        Returns:
            Log-probabilities, shape `(T, Q, C)`, in nats.

        Raises:
            ValueError: if shapes or labels do not fit, or a method returns scores of another shape or NaN.
        """
        _check(support_x, support_y, query_x, n_way)
        scores = self.scores(support_x, support_y, query_x, n_way)
        if scores.shape != (*query_x.shape[:2], n_way) or bool(scores.isnan().any()):
            got = "NaN" if scores.shape == (*query_x.shape[:2], n_way) else f"shape {tuple(scores.shape)}"
            raise ValueError(f"scores: expected numbers of shape {(*query_x.shape[:2], n_way)}, got {got}")
        return scores.mT.contiguous().log_softmax(-2).clamp(min=FLOOR).mT.contiguous()

    def __call__(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> Tensor:
        """Return class probabilities of the queries, shape `(T, Q, C)`; arguments as for `logits`."""
        return softmax(self.logits(support_x, support_y, query_x, n_way)).contiguous()


def guesses(peer: Peer, batches: Sequence[TaskBatch]) -> Tensor:
    """Return the classes that a peer gives the queries of labelled tasks of equal size, shape `(T, Q)`."""
    ways = batches[0].way_mask.shape[1]
    return torch.cat([peer.logits(b.support_x, b.support_y, b.query_x, ways).argmax(-1) for b in batches])


def _check(support_x: Tensor, support_y: Tensor, query_x: Tensor, n_way: int) -> None:
    tasks, rows, width = support_x.shape
    if support_y.shape != (tasks, rows):
        raise ValueError(f"support_y: expected shape {(tasks, rows)}, got {tuple(support_y.shape)}")
    if query_x.dim() != 3 or query_x.shape[::2] != (tasks, width):
        raise ValueError(f"query_x: expected shape ({tasks}, Q, {width}), got {tuple(query_x.shape)}")
    if not 0 <= int(support_y.min()) <= int(support_y.max()) < n_way:
        raise ValueError(f"support_y: expected labels from 0 to {n_way - 1}, got {support_y.unique().tolist()}")
    if not bool(one_hot(support_y, n_way).any(1).all()):
        raise ValueError(f"support_y: expected all {n_way} classes in every task, got a task without some")


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax over classes, the last dimension; some twenty times faster than `Tensor.softmax` there."""
    return scores.mT.contiguous().softmax(-2).mT


def one_hot(labels: Tensor, n_way: int) -> Tensor:
    """Return labels as rows of an identity matrix, shape `(T, S, C)`."""
    return torch.eye(n_way, device=labels.device)[labels]


def weighted_means(weights: Tensor, x: Tensor) -> Tensor:
    r"""Return $\mu_c = \sum_i w_{ic} x_i / \sum_i w_{ic}$, shape `(T, C, D)`."""
    return weights.mT @ x / weights.sum(1).unsqueeze(-1)


def class_means(x: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the mean of every class, shape `(T, C, D)`."""
    return weighted_means(one_hot(labels, n_way).to(x.dtype), x)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Return cosines between rows of two batches, shape `(T, N, M)`."""
    return normalize(x, dim=-1) @ normalize(y, dim=-1).mT


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared Euclidean distances between rows of two batches, shape `(T, N, M)`."""
    cross = x @ y.mT
    return x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2) - 2 * cross


def centre_and_normalize(x: Tensor, center: Tensor | None) -> Tensor:
    """Subtract the mean of the base classes, if given, and project on the unit sphere (CL2N)."""
    return normalize(x if center is None else x - center, dim=-1)
