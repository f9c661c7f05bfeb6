"""Questions about all entries of a tensor, those of all members of an ensemble too.

Members are computed at once by `torch.vmap`, which shows a function one member, and lets no entry decide what is
computed. A question about all members together may decide: its answer is the same for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["anywhere", "largest"]


def anywhere(condition: Tensor) -> bool:
    """Return whether a condition holds for any entry, of any member.

    Examples:
        >>> anywhere(torch.tensor([False, True]))
        True
        >>> two = torch.tensor([[1.0], [3.0]])
        >>> torch.vmap(lambda x: x if anywhere(x > 2) else 0 * x)(two).flatten().tolist()
        [1.0, 3.0]
    """
    return bool(condition.numel()) and largest(condition) > 0


def largest(values: Tensor) -> float:
    """Return the largest entry of any member; NaN where there is one.

    Args:
        values: of at least one entry, of any shape.
    """
    return float(_Largest.apply(values.detach().to(torch.float64)))  # type: ignore[no-untyped-call]


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.amax()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: there is no gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, values: Tensor) -> tuple[Tensor, None]:
        """Return the largest entry of all members, the same for each."""
        out: Tensor = _Largest.apply(values)  # type: ignore[no-untyped-call]
        return out, None
