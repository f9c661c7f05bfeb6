r"""Many values of a model's parameters at once: a batched axis in place of copies of the model.

A function of the model is evaluated under $\psi_1, \dots, \psi_S$ by one pass of `torch.vmap`, in which every
parameter that differs has a leading axis of length $S$.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

__all__ = ["Members", "chunk_size", "pack", "unpack"]

ROWS = 100_000  # rows of all members at a time: a few dozen megabytes for each value of a quadrature


class Members(NamedTuple):
    r"""Values of some parameters of a model.

    Args:
        model: the model; its own values are left alone.
        names: parameters that differ, as `named_parameters` calls them.
        values: one row for each member, the parameters one after the other, shape `(S, D)`.
    """

    model: nn.Module
    names: tuple[str, ...]
    values: Tensor

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the parameters of one row by name."""
        shapes = [self.model.get_parameter(name).shape for name in self.names]
        parts = torch.split(flat, [shape.numel() for shape in shapes])
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, shapes, strict=True)}

    def one(self, function: Callable[..., Any], flat: Tensor, *arguments: Tensor) -> Any:
        """Return what a function of the model and some tensors says under one row of values."""
        given = {f"model.{name}": value for name, value in self.split(flat).items()}
        return torch.func.functional_call(_Call(self.model), given, (function, *arguments))

    def map(self, function: Callable[..., Any], *arguments: Tensor, chunk: int | None = None) -> Any:
        """Return what a function says under every row, stacked.

        Random numbers that the function draws are the same for all.

        Args:
            function: what looks at the model, made of operations that `torch.vmap` knows; returns tensors.
            arguments: tensors with a leading axis of length $S$; the function sees one of each.
            chunk: members at a time, which bounds memory; all by default.
        """

        def under(flat: Tensor, *each: Tensor) -> Any:
            return self.one(function, flat, *each)

        with pyro.validation_enabled(False):  # it would ask a batch of truth values for one
            return torch.vmap(under, randomness="same", chunk_size=chunk)(self.values, *arguments)


def chunk_size(num_rows: int) -> int:
    """Return how many members to take at a time, where each looks at so many rows."""
    return max(1, ROWS // max(1, num_rows))


class _Call(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def pack(value: Any) -> list[Tensor]:
    """Return all tensors within lists, tuples of named fields and dataclasses, in order.

    Examples:
        >>> [t.item() for t in pack([torch.tensor(1), [None, torch.tensor(2)]])]
        [1, 2]
    """
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _visit(value, note)
    return found


def unpack(like: Any, tensors: Iterable[Tensor]) -> Any:
    """Return the same structure with other tensors.

    Examples:
        >>> unpack([torch.tensor(1), None], [torch.tensor(5)])
        [tensor(5), None]
    """
    rest = iter(tensors)
    return _visit(like, lambda _: next(rest))


def _visit(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list):
        return [_visit(v, change) for v in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_visit(v, change) for v in value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _visit(getattr(value, f.name), change) for f in fields(value)})
    return value
