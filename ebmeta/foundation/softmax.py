r"""Softmax over the classes of many rows, the last axis.

There are a few classes and many rows. Where memory runs along the rows, class after class, all classes of several rows
are worked on at once: some ten times faster than row by row. Tables of queries and classes of this package have shape
`(T, Q, C)`, and most lie in memory as `(T, C, Q)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import threshold

__all__ = ["log_softmax", "probabilities", "reported", "softmax"]

LEAST = -40.0  # nats; e^-40 added to 1 changes nothing, and its square is a normal number
ROUNDING = 1e-3  # of the smallest number that is kept


def log_softmax(odds: Tensor) -> Tensor:
    """Return the log probabilities of classes in nats, of the shape of the log odds, `(..., Q, C)`.

    Examples:
        >>> log_softmax(torch.tensor([[0.0, 0.0], [1.0, 0.0]])).exp().sum(-1)
        tensor([1., 1.])
    """
    return torch.log_softmax(odds.mT, -2).mT


def softmax(odds: Tensor) -> Tensor:
    """Return the probabilities of classes, of the shape of the log odds, `(..., Q, C)`.

    Examples:
        >>> softmax(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    return torch.softmax(odds.mT, -2).mT


def probabilities(log_p: Tensor) -> Tensor:
    """Return probabilities to calculate with: 0 below e^-40, which no sum of them can tell.

    Numbers that are too small for full precision make a processor many times slower.

    Args:
        log_p: log probabilities in nats, of any shape.

    Examples:
        >>> probabilities(torch.tensor([0.0, -1.0, -90.0]))
        tensor([1.0000, 0.3679, 0.0000])
    """
    return _above(LEAST, log_p)


def reported(log_p: Tensor) -> Tensor:
    """Return probabilities to report: 0 where a number of full precision is too large.

    Args:
        log_p: log probabilities in nats, of any shape.

    Examples:
        >>> reported(torch.tensor([0.0, -85.0, -90.0]))
        tensor([1.0000e+00, 1.2161e-37, 0.0000e+00])
    """
    return _above(math.log(torch.finfo(log_p.dtype).tiny), log_p)


def _above(least: float, log_p: Tensor) -> Tensor:
    """Return e to the power of numbers above the least, and 0 for others, without an e^-inf, which takes long too."""
    return threshold(log_p.clamp(min=least).exp(), (1 + ROUNDING) * math.exp(least), 0.0)
