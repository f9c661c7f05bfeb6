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
        anchor: an input that stands for each class, shape `(T, C, ...)`, or None.
        anchor_size: how many labelled rows each is worth, shape `(T, C)`, or None.
        outliers: whether queries may be of none of the classes, shape `(T,)`, or None.

    Examples:
        >>> facts = Facts(torch.tensor([[True, False]]), way_class=torch.tensor([[7, 0]]))
        >>> facts.taken(1).way_class.tolist()
        [[7, -1]]
    """

    way_mask: Tensor
    task_x: Tensor | None = None
    concentration: Tensor | None = None
    way_class: Tensor | None = None
    anchor: Tensor | None = None
    anchor_size: Tensor | None = None
    outliers: Tensor | None = None

    def taken(self, tasks: int) -> Facts:
        """Return the facts of so many tasks, checked, with floats where they belong and no class in padding.

        Args:
            tasks: number of tasks, $T$.

        Raises:
            ValueError: if something has another shape or type, or holds what it cannot.
        """
        self._check_ways(tasks)
        self._check_numbers(tasks)
        self._check_anchors()
        way_class = None if self.way_class is None else self.way_class.long().masked_fill(~self.way_mask, NO_CLASS)
        worth = as_floats(self.anchor_size)
        if self.anchor is not None:
            worth = self.way_mask.to(self.anchor.dtype) if worth is None else worth * self.way_mask
        return Facts(
            self.way_mask,
            as_floats(self.task_x),
            as_floats(self.concentration),
            way_class,
            as_floats(self.anchor),
            worth,
            self.outliers,
        )

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

        if self.outliers is not None:
            check_shape("outliers", self.outliers, (tasks,))
            if self.outliers.dtype != torch.bool:
                raise ValueError(f"outliers: expected booleans, got {self.outliers.dtype}")

    def _check_anchors(self) -> None:
        shape = tuple(self.way_mask.shape)
        if self.anchor is None:
            if self.anchor_size is not None:
                raise ValueError("anchor_size: expected anchors too, got none")
            return
        check_shape("anchor", self.anchor, (*shape, *self.anchor.shape[2:]))
        if not bool(self.anchor.isfinite().all()):
            raise ValueError("anchor: expected finite numbers, got NaN or infinity")
        if self.anchor_size is None:
            return
        check_shape("anchor_size", self.anchor_size, shape)
        if not bool((self.anchor_size >= 0).all() & self.anchor_size.isfinite().all()):
            raise ValueError("anchor_size: expected finite numbers from 0 on, got another")

    def map(self, f: Callable[[Tensor], Tensor]) -> Facts:
        """Return the facts with a function applied to every tensor."""
        ways, *others = (None if value is None else f(value) for value in vars(self).values())
        assert ways is not None  # for the type checker: the first field has no default
        return Facts(ways, *others)


def _check_axes(name: str, value: Tensor) -> None:
    if value.dim() != 2:
        raise ValueError(f"{name}: expected two axes, the first of tasks, got shape {tuple(value.shape)}")
