"""Functions of single rows, computed by blocks of rows that fit a processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["by_blocks"]

CACHE = 2**19  # numbers of a block: fits a cache, and its products are no short ones


@torch.no_grad()
def by_blocks(function: Callable[[Tensor], Tensor], x: Tensor, last: float) -> Tensor:
    """Return a function of rows and a constant after it, without a gradient.

    Args:
        function: from rows of shape `(N, D)` to rows of the same shape, each of its own row.
        x: rows, shape `(..., D)`.
        last: the constant.

    Returns:
        Rows of shape `(..., D + 1)`.

    Examples:
        >>> by_blocks(lambda rows: 2 * rows, torch.tensor([[1.0], [3.0]]), 0.5).tolist()
        [[2.0, 0.5], [6.0, 0.5]]
    """
    rows = x.flatten(0, -2)
    number, width = rows.shape
    step = max(1, CACHE // max(1, width) if x.device.type == "cpu" else number)
    first = function(rows[:step])
    out = first.new_full((number, width + 1), last)
    out[:step, :-1] = first
    for start in range(step, number, step):
        out[start : start + step, :-1] = function(rows[start : start + step])
    return out.view(*x.shape[:-1], width + 1)
