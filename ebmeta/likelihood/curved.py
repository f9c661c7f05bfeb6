"""Whether automatic differentiation finds slopes and curvatures of a log density of one's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebmeta.foundation.anywhere import anywhere

__all__ = ["check_curved"]


def check_curved(
    name: str,
    y: Tensor,
    density: Callable[[Tensor], Tensor],
    curvature: Callable[[Tensor], tuple[Tensor, Tensor]],
    eta: Tensor,
) -> bool:
    """Return whether a curvature is found near any label.

    A slope of NaN is that of `torch.where` with a branch that has none, or of a root at 0; one place of a row may be
    the latter.

    Args:
        name: of the likelihood.
        y: labels, shape `(T, Q)`.
        density: from linear predictors, shape `(..., T, Q)`, to the log density of the labels.
        curvature: from the same to curvature and slope of minus the log density.
        eta: linear predictors to look near, shape `(T, Q)`.

    Raises:
        ValueError: if the log density or its slope is NaN, or it has no curvature near any of several labels.

    Examples:
        >>> def of_a_normal(eta):
        ...     return torch.ones_like(eta), eta - 0.5
        >>> one = torch.tensor([[0.5]])
        >>> check_curved("own", one, lambda eta: -((eta - 0.5) ** 2) / 2, of_a_normal, torch.zeros(1, 1))
        True
    """
    at = eta + torch.linspace(-2, 2, 9, dtype=eta.dtype, device=eta.device).view(-1, 1, 1)
    found, slope = curvature(at)
    lost = (found + slope).isnan() & density(at).isfinite()
    if anywhere(rows := lost.sum(0) > 1):
        row = tuple(rows.nonzero()[0])
        raise ValueError(
            f"{name} likelihood: expected a slope wherever the log density is a number, got NaN near "
            f"{float(eta[row]):.3g} for label {float(y[row]):g} (torch.where takes the slopes of both branches: clamp "
            "what goes into the one that is not taken)"
        )
    if anywhere(torch.nan_to_num(found) != 0):
        return True
    if y.numel() and not anywhere(~found.isnan()):
        raise ValueError(f"{name} likelihood: expected a log density, got NaN of every label")
    if anywhere(y != y.flatten()[:1]):
        raise ValueError(
            f"{name} likelihood: expected a log density that is curved in the linear predictor, got slopes "
            "alone (automatic differentiation does not see a kink); state gradients, or smooth the kink"
        )
    return False
