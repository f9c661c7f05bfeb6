"""Rows of many tasks padded to one length, which is what the support and the query of a batch have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["HUGE", "LabelledRows", "Rows", "as_floats", "check_shape"]

HUGE = 1e150  # squares of larger numbers leave the range of 64-bit floats


class LabelledRows(NamedTuple):
    """Labelled rows of many tasks, one after another, without padding."""

    x: Tensor
    """Inputs, shape `(N, ...)`."""
    y: Tensor
    """Labels, shape `(N,)`."""
    size: Tensor
    """How much each counts, 1 where nothing is said, shape `(N,)`."""
    task: Tensor
    """Number of the task of each, shape `(N,)`."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One side of every task, its support or its query, as padded tensors.

    Args:
        x: inputs, shape `(T, N, ...)`.
        y: labels, shape `(T, N)`, or None where they are unknown.
        mask: True where a row is real, shape `(T, N)`.
        size: how much each row counts (see `ebmeta.likelihood.Given`), shape `(T, N)`, or None.

    Examples:
        >>> rows = Rows.stacked("support", [torch.ones(2, 3), torch.ones(1, 3)], [torch.ones(2), torch.zeros(1)])
        >>> rows.mask.tolist(), rows.count.tolist()
        ([[True, True], [True, False]], [2, 1])
    """

    x: Tensor
    y: Tensor | None
    mask: Tensor
    size: Tensor | None = None

    @classmethod
    def taken(cls, x: Tensor, y: Tensor | None, mask: Tensor | None, size: Tensor | None) -> Rows:
        """Return rows with inputs and sizes as floats, class labels as 64-bit integers, and all rows real by default.

        Args:
            x: inputs of any type, shape `(T, N, ...)`.
            y: labels, shape `(T, N)`, or None.
            mask: True where a row is real, shape `(T, N)`, or None where all are.
            size: sizes of any type, shape `(T, N)`, or None.
        """
        if not x.is_floating_point():
            x = x.to(torch.float64 if x.element_size() > 2 else torch.get_default_dtype())
        if y is not None and not y.is_floating_point():
            y = y.long()
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return cls(x, y, mask, as_floats(size))

    @classmethod
    def stacked(
        cls, side: str, x: Sequence[Tensor], y: Sequence[Tensor] | None, size: Sequence[Tensor] | None = None
    ) -> Rows:
        """Pad the rows of each task to those of the largest.

        Args:
            side: "support" or "query", for messages.
            x: inputs, each of shape `(N_t, ...)`.
            y: labels, each of shape `(N_t,)`, or None.
            size: sizes, each of shape `(N_t,)`, or None.

        Raises:
            ValueError: if a task has not as many labels or sizes as inputs, or rows of another shape or type.
        """
        for name, what, values in (("y", "labels", y), ("size", "sizes", size)):
            for t, (row, value) in enumerate(zip(x, x if values is None else values, strict=True)):
                if len(row) != len(value):
                    raise ValueError(f"{side}_{name}: expected {len(row)} {what} in task {t}, got {len(value)}")
        lengths = torch.tensor([len(row) for row in x], device="cpu")
        stop = int(lengths.max())
        mask = (torch.arange(stop, device="cpu") < lengths[:, None]).to(x[0].device)
        labels, sizes = (None if v is None else _padded(v, stop) for v in (y, size))
        return cls(_padded(x, stop), labels, mask, sizes)

    @property
    def width(self) -> int:
        """Rows of a task, padding included."""
        return self.mask.shape[1]

    @property
    def count(self) -> Tensor:
        """Real rows of each task, shape `(T,)`."""
        return self.mask.sum(1)

    def check_shapes(self, side: str, tasks: int, features: tuple[int, ...]) -> None:
        """Raise `ValueError` where the tensors do not fit together.

        Args:
            side: "support" or "query", for messages.
            tasks: number of tasks, $T$.
            features: shape of a row.
        """
        rows = (tasks, self.x.shape[1])
        check_shape(f"{side}_x", self.x, (*rows, *features))
        check_shape(f"{side}_y", self.y, rows)
        check_shape(f"{side}_mask", self.mask, rows)
        check_shape(f"{side}_size", self.size, rows)
        if self.mask.dtype != torch.bool:
            raise ValueError(f"{side}_mask: expected a boolean mask, got {self.mask.dtype}")

    def check_values(self, side: str, ways: Tensor) -> None:
        """Raise `ValueError` where a real row holds what is not finite, too large to square, or no class of its task.

        Args:
            side: "support" or "query", for messages.
            ways: number of classes of each task, shape `(T,)`.
        """
        _check_finite(f"{side}_x", self.x, self.mask)
        _check_finite(f"{side}_size", self.size, self.mask)
        if self.y is None or self.y.is_floating_point():
            _check_finite(f"{side}_y", self.y, self.mask)
            return
        bad = ((self.y < 0) | (self.y >= ways[:, None])) & self.mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            got = f"got {int(self.y[t, i])} at row {i}"
            raise ValueError(f"{side}_y: expected labels from 0 to {int(ways[t]) - 1} in task {t}, {got}")

    def blanked(self) -> Rows:
        """Return the same rows; padding, which may hold anything, holds numbers that do no harm."""
        if bool(self.mask.all()):
            return self

        def blank(value: Tensor, harmless: int) -> Tensor:
            real = self.mask.view(*self.mask.shape, *[1] * (value.dim() - 2))
            return value.masked_fill(~real, harmless)

        y, size = (None if v is None else blank(v, n) for v, n in ((self.y, 0), (self.size, 1)))
        return Rows(blank(self.x, 0), y, self.mask, size)

    def map(self, f: Callable[[Tensor], Tensor]) -> Rows:
        """Return the rows with a function applied to every tensor."""
        y, size = (None if v is None else f(v) for v in (self.y, self.size))
        return Rows(f(self.x), y, f(self.mask), size)

    def first(self, number: int) -> Rows:
        """Return the first rows of every task."""
        return self.map(lambda v: v[:, :number])

    def trimmed(self) -> Rows:
        """Return the same rows without those at the end that are padding in all tasks."""
        used = self.mask.any(0).nonzero()
        return self.first(int(used[-1]) + 1 if len(used) else 0)

    def labelled(self) -> LabelledRows | None:
        """Return the real rows of all tasks with their labels, or None where these are unknown."""
        if self.y is None:
            return None
        task = torch.arange(len(self.x), device=self.mask.device)[:, None].expand(self.mask.shape)
        size = torch.ones_like(self.mask, dtype=torch.float64) if self.size is None else self.size
        return LabelledRows(*(v[self.mask] for v in (self.x, self.y, size, task)))

    def joined(self, other: Rows) -> Rows:
        """Return the labelled rows of both sides, those of `other` last; sizes are 1 where one side has none.

        Raises:
            ValueError: if labels are absent.
        """
        if self.y is None or other.y is None:
            raise ValueError("rows: expected labels of both sides, got none")
        size = None
        if self.size is not None or other.size is not None:
            parts = ((self.size, self.y), (other.size, other.y))
            size = torch.cat([torch.ones_like(y) if s is None else s for s, y in parts], 1)
        x, mask = torch.cat([self.x, other.x], 1), torch.cat([self.mask, other.mask], 1)
        return Rows(x, torch.cat([self.y, other.y], 1), mask, size)


def as_floats(value: Tensor | None) -> Tensor | None:
    """Return numbers as floats, of the default type where they are none."""
    return value if value is None or value.is_floating_point() else value.to(torch.get_default_dtype())


def check_shape(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` where a tensor that is there has another shape."""
    if value is not None and tuple(value.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} to match support_x, got {tuple(value.shape)}")


def _padded(rows: Sequence[Tensor], stop: int) -> Tensor:
    """Stack tensors of unequal first dimension."""
    first = rows[0]
    for t, row in enumerate(rows):
        if row.shape[1:] != first.shape[1:] or row.dtype != first.dtype:
            raise ValueError(
                f"expected rows of shape {tuple(first.shape[1:])} and type {first.dtype} in every task, "
                f"got {tuple(row.shape[1:])} and {row.dtype} in task {t}"
            )
    if all(len(row) == stop for row in rows):
        return torch.stack(list(rows))
    return pad_sequence(list(rows), batch_first=True)


def _check_finite(name: str, x: Tensor | None, mask: Tensor) -> None:
    x = None if x is None else x.detach()  # a network's output has gradients, which a number has not
    if x is None or not x.numel() or (float(x.amin()) > -HUGE and float(x.amax()) < HUGE):
        return
    largest = x.abs().flatten(2).amax(-1) if x.dim() > 2 else x.abs()
    bad = ~(largest < HUGE) & mask
    if bool(bad.any()):
        t, i = (int(v) for v in bad.nonzero()[0])
        if bool(largest[t, i] < float("inf")):
            raise ValueError(f"{name}: expected numbers below {HUGE:.0e}, got {largest[t, i]:.3g} at task {t}, row {i}")
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity at task {t}, row {i}")
