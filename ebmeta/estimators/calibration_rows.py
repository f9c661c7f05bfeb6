"""Labelled rows of a task that calibrate its conformal sets, apart from those that it is learned from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmeta.foundation.seeding import stream

__all__ = ["calibration_split"]

SLACK = 1e-9  # rounding of a quotient


def calibration_split(y: Tensor, alone: Tensor, level: float, seed: int) -> tuple[Tensor, Tensor]:
    r"""Return which labelled rows to learn from, and which to calibrate with: half of them, drawn at random.

    A level of $1 - \alpha$ needs $(1 - \alpha) / \alpha$ rows that calibrate. A row of every class stays to learn from.

    Args:
        y: class of each labelled row, shape `(S,)`.
        alone: True for classes that need no labelled row, shape `(C,)`.
        level: probability that a set must hold the true class, $1 - \alpha$.
        seed: seed of the draw.

    Returns:
        Row numbers of both parts, each in order.

    Raises:
        ValueError: if there are too few rows.

    Examples:
        >>> learned, held = calibration_split(torch.arange(20) % 2, torch.zeros(2, dtype=torch.bool), 0.9, 0)
        >>> len(learned), len(held)
        (10, 10)
    """
    needed, own = math.ceil(level / (1 - level) - SLACK), len(alone) - int(alone.sum())
    order = torch.randperm(len(y), generator=stream(seed))
    seen, spare = alone.clone(), []
    for row in order.tolist():
        if seen[y[row]]:
            spare.append(row)
        seen[y[row]] = True
    if len(spare) < needed:
        raise ValueError(
            f"level: expected at least {needed + own} labelled rows for sets of level {level:g}, {needed} to calibrate "
            f"and one of each class, got {len(y)}"
        )
    held = torch.zeros(len(y), dtype=torch.bool)
    held[spare[: max(needed, len(y) // 2)]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()
