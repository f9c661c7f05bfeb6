"""Arrays of tasks: how unequal ones are padded to one shape, and what the arrays of a batch have to fulfil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["HUGE", "check_batch", "check_finite", "pad"]

HUGE = 1e150  # squares of larger numbers leave the range of 64-bit floats


class Arrays(Protocol):
    """The arrays of a batch."""

    @property
    def support_x(self) -> Tensor: ...
    @property
    def support_y(self) -> Tensor: ...
    @property
    def query_x(self) -> Tensor: ...
    @property
    def query_y(self) -> Tensor | None: ...
    @property
    def support_mask(self) -> Tensor: ...
    @property
    def query_mask(self) -> Tensor: ...
    @property
    def way_mask(self) -> Tensor: ...
    @property
    def support_size(self) -> Tensor | None: ...
    @property
    def query_size(self) -> Tensor | None: ...
    @property
    def task_x(self) -> Tensor | None: ...
    @property
    def concentration(self) -> Tensor | None: ...


def pad(rows: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Stack tensors of unequal first dimension; also return the mask of what is real."""
    first = rows[0]
    for t, row in enumerate(rows):
        if row.shape[1:] != first.shape[1:] or row.dtype != first.dtype:
            raise ValueError(
                f"expected rows of shape {tuple(first.shape[1:])} and type {first.dtype} in every task, "
                f"got {tuple(row.shape[1:])} and {row.dtype} in task {t}"
            )
    out = first.new_zeros((len(rows), length, *first.shape[1:]))
    mask = torch.zeros((len(rows), length), dtype=torch.bool, device=first.device)
    for t, row in enumerate(rows):
        out[t, : len(row)] = row
        mask[t, : len(row)] = True
    return out, mask


def check_finite(name: str, x: Tensor, mask: Tensor) -> None:
    """Raise `ValueError` where a real row holds a number that is not finite, or too large to square."""
    if not x.numel():
        return
    largest = x.abs().flatten(2).amax(-1) if x.dim() > 2 else x.abs()
    bad = ~(largest < HUGE) & mask
    if bool(bad.any()):
        t, i = (int(v) for v in bad.nonzero()[0])
        if bool(largest[t, i] < float("inf")):
            raise ValueError(f"{name}: expected numbers below {HUGE:.0e}, got {largest[t, i]:.3g} at task {t}, row {i}")
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity at task {t}, row {i}")


def check_batch(batch: Arrays) -> None:
    """Raise `ValueError` where the parts of a batch do not fit together or hold what they cannot."""
    tasks, support, queries = len(batch.support_x), batch.support_x.shape[1], batch.query_x.shape[1]
    expected = {
        "support_y": (tasks, support),
        "support_mask": (tasks, support),
        "query_x": (tasks, queries, *batch.support_x.shape[2:]),
        "query_mask": (tasks, queries),
        "way_mask": (tasks, batch.way_mask.shape[-1]),
    }
    if batch.query_y is not None:
        expected["query_y"] = (tasks, queries)
    for name, rows in (("support_size", support), ("query_size", queries)):
        if getattr(batch, name) is not None:
            expected[name] = (tasks, rows)
    if batch.task_x is not None:
        expected["task_x"] = (tasks, batch.task_x.shape[-1])
    if batch.concentration is not None:
        expected["concentration"] = (tasks,)
    for name, shape in expected.items():
        got = tuple(getattr(batch, name).shape)
        if got != shape:
            raise ValueError(f"{name}: expected shape {shape} to match support_x, got {got}")
        if name.endswith("mask") and getattr(batch, name).dtype != torch.bool:
            raise ValueError(f"{name}: expected a boolean mask, got {getattr(batch, name).dtype}")
    if bool((batch.way_mask[:, 1:] & ~batch.way_mask[:, :-1]).any()):
        raise ValueError("way_mask: expected the classes of each task first and padding after them, got a gap")
    if batch.query_y is not None and batch.query_y.is_floating_point() != batch.support_y.is_floating_point():
        raise ValueError(
            f"query_y: expected labels of the kind of support_y, {batch.support_y.dtype}, got {batch.query_y.dtype}"
        )
    if batch.support_y.is_floating_point() and batch.way_mask.shape[1] != 1:
        raise ValueError(f"way_mask: expected one output for real-valued labels, got {batch.way_mask.shape[1]}")
    if tasks == 0:
        raise ValueError("expected at least one task, got 0")
    if not bool(batch.query_mask.any(1).all()):
        t = int((~batch.query_mask.any(1)).nonzero()[0])
        raise ValueError(f"query_x: expected at least one query per task, got none in task {t}")
    check_finite("support_x", batch.support_x, batch.support_mask)
    check_finite("query_x", batch.query_x, batch.query_mask)
    if batch.task_x is not None and not bool(batch.task_x.isfinite().all()):
        t = int((~batch.task_x.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"task_x: expected finite numbers, got NaN or infinity at task {t}")
    if batch.concentration is not None and bool((batch.concentration <= 0).any()):
        t = int((batch.concentration <= 0).nonzero()[0])
        found = f"got {float(batch.concentration[t])} at task {t}"
        raise ValueError(f"concentration: expected numbers above 0, infinity or NaN, {found}")
    for name, mask in (("support_size", batch.support_mask), ("query_size", batch.query_mask)):
        if getattr(batch, name) is not None:
            check_finite(name, getattr(batch, name), mask)
    for name, y, mask in (
        ("support_y", batch.support_y, batch.support_mask),
        ("query_y", batch.query_y, batch.query_mask),
    ):
        if y is None:
            continue
        if y.is_floating_point():
            check_finite(name, y, mask)
            continue
        ways = batch.way_mask.sum(1, keepdim=True)
        bad = ((y < 0) | (y >= ways)) & mask
        if bool(bad.any()):
            t, i = (int(v) for v in bad.nonzero()[0])
            raise ValueError(
                f"{name}: expected labels from 0 to {int(ways[t]) - 1} in task {t}, got {int(y[t, i])} at row {i}"
            )
