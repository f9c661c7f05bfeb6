r"""Beliefs whose shares of the classes are known to be equal, by Sinkhorn's iterations.

Source: Cuturi 2013, Sinkhorn distances.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebmeta.likelihood import NEVER

__all__ = ["equal_shares"]

ITERATIONS = 10  # of potentials; ten bring shares of beliefs within about a hundredth of equal ones
LEAST = 1e-300  # of what a class takes of all queries


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
    odds = odds.masked_fill(~way_mask.unsqueeze(1), NEVER)
    p = torch.softmax(odds.mT.double(), 1)  # in 64 bits: small ones count where a class has no other
    share = (query_mask.sum(1) / way_mask.sum(1)).double()[:, None, None]
    given = p, query_mask.unsqueeze(1).double(), share, num_iterations
    last = _Factors.apply if p.requires_grad else lambda *v: _factors(*v)[0][-1]
    factor: Tensor = last(*given)
    return odds + factor.log().masked_fill(~way_mask.unsqueeze(-1), 0.0).to(odds.dtype).mT


def _factors(
    p: Tensor, real: Tensor, share: Tensor, num_iterations: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    r"""Return factors of classes after some iterations from 1.

    $$ f_c \leftarrow m \Big/ \sum_i \frac{p_{ci}}{\sum_{c'} p_{c'i} f_{c'}} $$

    Args:
        p: probabilities, shape `(T, C, Q)`.
        real: 1 where a query is real, shape `(T, 1, Q)`.
        share: $m$, shape `(T, 1, 1)`.
        num_iterations: of the factors.

    Returns:
        The factors so far, `(T, C, 1)`, and the inner and the outer sums of each iteration.
    """
    factors, inner, outer = [p.new_ones(*p.shape[:2], 1)], [], []
    for _ in range(num_iterations):
        inner.append((p * factors[-1]).sum(1, keepdim=True))
        outer.append((p * (real / inner[-1])).sum(2, keepdim=True).clamp(min=LEAST))
        factors.append(share / outer[-1])
    return factors, inner, outer


class _Factors(torch.autograd.Function):
    """The last of `_factors`. The gradient of all iterations is written out: their graph costs several times more."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, real: Tensor, share: Tensor, num_iterations: int) -> Tensor:
        factors, inner, outer = _factors(p, real, share, num_iterations)
        ctx.save_for_backward(p, real, *factors, *inner, *outer)
        ctx.number = num_iterations
        return factors[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient with respect to the probabilities."""
        p, real, *rest = ctx.saved_tensors
        factors, inner, outer = rest[: ctx.number + 1], rest[ctx.number + 1 : -ctx.number], rest[-ctx.number :]
        of_factor, by_class, by_query = gradients[0], [], []
        for k in reversed(range(ctx.number)):
            of_outer = -of_factor * factors[k + 1] / outer[k]
            weight = real / inner[k]
            of_inner = (p * of_outer).sum(1, keepdim=True) * -weight / inner[k]
            of_factor = (p * of_inner).sum(2, keepdim=True)
            by_class += [of_outer, factors[k]]
            by_query += [weight, of_inner]
        return torch.cat(by_class, 2) @ torch.cat(by_query, 1), None, None, None
