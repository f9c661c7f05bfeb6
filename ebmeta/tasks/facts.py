"""What is said of each task as a whole, which is its classes, its covariates, and what is known of its proportions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmeta.tasks.rows import as_floats, check_shape

__all__ = ["NO_CLASS", "Facts"]

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
NO_CLASS = -1  # number of a class that is none of the source's, and of padding


@dataclass(frozen=True, eq=False)
class Facts:
    """What is said of tasks as a whole; see `ebmeta.TaskBatch`, whose names these are.

    Args:
        way_mask: True where a class exists, shape `(T, C)`.
        task_x: covariates, shape `(T, G)`, or None.
        concentration: what is known of the class proportions of the queries, shape `(T,)`, or None.
        way_class: number of each class among those of the source, shape `(T, C)`, or None.

    Examples:
        >>> facts = Facts(torch.tensor([[True, False]]), way_class=torch.tensor([[7, 0]]))
        >>> facts.taken(1).way_class.tolist()
        [[7, -1]]
    """

    way_mask: Tensor
    task_x: Tensor | None = None
    concentration: Tensor | None = None
    way_class: Tensor | None = None

    def taken(self, tasks: int) -> Facts:
        """Return the facts of so many tasks, checked, with floats where they belong and no class in padding.

        Args:
            tasks: number of tasks, $T$.

        Raises:
            ValueError: if something has another shape or type, or holds what it cannot.
        """
        self._check_ways(tasks)
        self._check_numbers(tasks)
        way_class = None if self.way_class is None else self.way_class.long().masked_fill(~self.way_mask, NO_CLASS)
        return Facts(self.way_mask, as_floats(self.task_x), as_floats(self.concentration), way_class)

    def _check_ways(self, tasks: int) -> None:
        mask, number = self.way_mask, self.way_class
        _check_axes("way_mask", mask)
        check_shape("way_mask", mask, (tasks, mask.shape[-1]))
        if mask.dtype != torch.bool:
            raise ValueError(f"way_mask: expected a boolean mask, got {mask.dtype}")
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError("way_mask: expected the classes of each task first and padding after them, got a gap")
        if number is None:
            return
        check_shape("way_class", number, tuple(mask.shape))
        if number.dtype not in INTEGERS:
            raise ValueError(f"way_class: expected integers, got {number.dtype}")
        bad = (number.long() < NO_CLASS) & mask
        if bool(bad.any()):
            t, c = (int(v) for v in bad.nonzero()[0])
            got = f"got {int(number[t, c])} of class {c} in task {t}"
            raise ValueError(f"way_class: expected numbers of classes from 0 on, or {NO_CLASS} for none, {got}")

    def _check_numbers(self, tasks: int) -> None:
        if self.task_x is not None:
            _check_axes("task_x", self.task_x)
            check_shape("task_x", self.task_x, (tasks, self.task_x.shape[-1]))
            finite = self.task_x.isfinite().all(1)
            if not bool(finite.all()):
                t = int((~finite).nonzero()[0])
                raise ValueError(f"task_x: expected finite numbers, got NaN or infinity at task {t}")
        if self.concentration is not None:
            check_shape("concentration", self.concentration, (tasks,))
            bad = self.concentration <= 0
            if bool(bad.any()):
                t = int(bad.nonzero()[0])
                got = f"got {float(self.concentration[t])} at task {t}"
                raise ValueError(f"concentration: expected numbers above 0, infinity or NaN, {got}")

    def map(self, f: Callable[[Tensor], Tensor]) -> Facts:
        """Return the facts with a function applied to every tensor."""
        others = (None if v is None else f(v) for v in (self.task_x, self.concentration, self.way_class))
        return Facts(f(self.way_mask), *others)


def _check_axes(name: str, value: Tensor) -> None:
    if value.dim() != 2:
        raise ValueError(f"{name}: expected two axes, the first of tasks, got shape {tuple(value.shape)}")
