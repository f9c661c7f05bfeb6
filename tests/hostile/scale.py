"""How much of the hostile input is run: `HOSTILE_SCALE`, a share of 1; a tenth by default."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["SCALE", "share"]

T = TypeVar("T")
SCALE = float(os.environ.get("HOSTILE_SCALE", "0.1"))
if not 0 < SCALE <= 1:
    raise ValueError(f"HOSTILE_SCALE: expected a share above 0 and up to 1, got {SCALE}")


def share(cases: Sequence[T], seed: int = 0, least: int = 1) -> list[T]:
    """Draw the share of the cases that is to be run, in order, at least `least` of them: all where the scale is 1."""
    number = min(len(cases), max(least, round(SCALE * len(cases))))
    return [cases[i] for i in sorted(random.Random(seed).sample(range(len(cases)), number))]
