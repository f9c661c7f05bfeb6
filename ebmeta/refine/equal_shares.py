r"""Beliefs whose shares of the classes are known to be equal, by Sinkhorn's iterations.

Source: Cuturi 2013, Sinkhorn distances.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebmeta.foundation.softmax import log_softmax
from ebmeta.likelihood import NEVER

__all__ = ["equal_shares", "with_equal_shares"]

ITERATIONS = 10  # of potentials; ten bring shares of beliefs within about a hundredth of equal ones
LEAST = 1e-300  # of what a class takes of all queries


def with_equal_shares(odds: Tensor, equal: Tensor | None, query_mask: Tensor, way_mask: Tensor) -> Tensor:
    """Return log probabilities of log odds, which add up to equal shares of the classes in some tasks.

    Args:
        odds: log odds, shape `(T, Q, C)`.
        equal: in which tasks, shape `(T,)`; None for none.
        query_mask: True where a query is real, shape `(T, Q)`.
        way_mask: True where a class exists, shape `(T, C)`.
    """
    if equal is not None and torch.compiler.is_compiling():  # for all tasks: how many have them is no part of a graph
        level = torch.where(equal[:, None, None], odds, 0.0)  # whose potentials are the same for all classes
        odds = odds + potentials(level, query_mask, way_mask).unsqueeze(1)
    elif equal is not None and bool(equal.any()):
        some = equal.nonzero().squeeze(1)
        of_some = potentials(odds.mT.index_select(0, some).mT, query_mask[some], way_mask[some])
        odds = odds + torch.zeros_like(odds[:, 0]).index_copy(0, some, of_some).unsqueeze(1)
    return log_softmax(odds)


def equal_shares(odds: Tensor, query_mask: Tensor, way_mask: Tensor, num_iterations: int = ITERATIONS) -> Tensor:
    r"""Return log odds whose probabilities add up to equal shares of the classes.

    Args:
        odds: log odds, shape `(T, Q, C)`.
        query_mask: True where a query is real, shape `(T, Q)`.
        way_mask: True where a class exists, shape `(T, C)`.
        num_iterations: of the potentials.

    Examples:
        >>> odds = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.5, 0.0]]])
        >>> real = torch.ones(1, 4, dtype=torch.bool)
        >>> [round(v, 3) for v in equal_shares(odds, real, real[:, :2], 50).softmax(-1).sum(1)[0].tolist()]
        [2.0, 2.0]
    """
    u = potentials(odds, query_mask, way_mask, num_iterations)
    return odds.masked_fill(~way_mask.unsqueeze(1), NEVER) + u.unsqueeze(1)


def potentials(odds: Tensor, query_mask: Tensor, way_mask: Tensor, num_iterations: int = ITERATIONS) -> Tensor:
    """Return what log odds need for equal shares of the classes, 0 for those that do not exist, shape `(T, C)`.

    Arguments as of `equal_shares`.
    """
    given = odds, query_mask, way_mask, num_iterations
    if odds.requires_grad and not torch.compiler.is_compiling():
        out: Tensor = _Potentials.apply(*given)  # type: ignore[no-untyped-call]
        return out
    return _log(_factors(*given)[1][-1], way_mask).to(odds.dtype)  # which may be mapped over models


def _factors(
    odds: Tensor, query_mask: Tensor, way_mask: Tensor, num_iterations: int
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    r"""Return factors of classes after some iterations from 1, in 64 bits: small ones count where a class has no other.

    $$ f_c \leftarrow m \Big/ \sum_i p_{ci} w_i, \qquad w_i = 1 \Big/ \sum_c p_{ci} f_c $$

    Returns:
        Probabilities $p$, shape `(T, C, Q)`, the factors so far, `(T, C, 1)`, the weights $w$ of queries, `(T, 1, Q)`,
        0 for padding, and their sums, `(T, C, 1)`, of each iteration.
    """
    p = torch.softmax(odds.mT.to(torch.float64, copy=True).masked_fill_(~way_mask.unsqueeze(-1), NEVER), 1)
    real, share = query_mask.unsqueeze(1).double(), (query_mask.sum(1) / way_mask.sum(1)).double()[:, None, None]
    factors, weights, sums = [p.new_ones(*p.shape[:2], 1)], [], []
    for _ in range(num_iterations):
        weights.append(real / (p * factors[-1]).sum(1, keepdim=True))
        sums.append((p * weights[-1]).sum(2, keepdim=True).clamp_(min=LEAST))
        factors.append(share / sums[-1])
    return p, factors, weights, sums


def _log(factor: Tensor, way_mask: Tensor) -> Tensor:
    return torch.where(way_mask, factor.squeeze(-1).log(), 0.0)


class _Potentials(torch.autograd.Function):
    """The log of the last of `_factors`. Its gradient is written out: a graph of iterations costs much more."""

    @staticmethod
    def forward(ctx: Any, odds: Tensor, query_mask: Tensor, way_mask: Tensor, num_iterations: int) -> Tensor:
        p, factors, weights, sums = _factors(odds, query_mask, way_mask, num_iterations)
        ctx.save_for_backward(way_mask, p, *factors, *weights, *sums)
        ctx.number = num_iterations
        return _log(factors[-1], way_mask).to(odds.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient with respect to the log odds."""
        way_mask, p, *rest = ctx.saved_tensors
        factors, weights, sums = rest[: ctx.number + 1], rest[ctx.number + 1 : -ctx.number], rest[-ctx.number :]
        of_factor = torch.where(way_mask, gradients[0], 0.0).unsqueeze(-1) / factors[-1]
        by_class, by_query = [], []
        for k in reversed(range(ctx.number)):
            of_sum = of_factor * factors[k + 1] / sums[k]  # of less
            of_inner = (p * of_sum).sum(1, keepdim=True) * weights[k].square()
            of_factor = (p * of_inner).sum(2, keepdim=True)
            by_class += [factors[k], -of_sum]
            by_query += [of_inner, weights[k]]
        of_p = p * torch.bmm(torch.cat(by_class, 2), torch.cat(by_query, 1))
        out = of_p - p * of_p.sum(1, keepdim=True)
        return out.to(gradients[0].dtype).mT, None, None, None
