r"""Many values of a model's parameters at once: a batched axis in place of copies of the model.

A function of the model is evaluated under $\psi_1, \dots, \psi_S$ by one pass of `torch.vmap`, in which every
parameter that differs has a leading axis of length $S$. The model itself is never written to, so any number of threads
may look at its members at the same time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["Members", "chunk_size", "pack", "twin", "unpack"]

Module = TypeVar("Module", bound=nn.Module)

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

    def _under(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function of one row of values, and of tensors, that says what `function` does under that row."""
        own = twin(self.model)  # values are put into it, and other threads may be looking at the model
        caller = _Call(own)

        def under(flat: Tensor, *each: Tensor) -> Any:
            given = {f"model.{name}": value for name, value in self.split(flat).items()}
            return torch.func.functional_call(caller, given, (function, own, *each))

        return under

    def each(self, function: Callable[..., Any], *arguments: Tensor) -> list[Any]:
        """Return what a function of the model and tensors says under every row, one after the other; see `map`."""
        under = self._under(function)
        return [under(*row) for row in zip(self.values, *arguments, strict=True)]

    def map(self, function: Callable[..., Any], *arguments: Tensor, chunk: int | None = None) -> Any:
        """Return what a function says under every row, stacked.

        Args:
            function: of a model, which has the values of a row, and of tensors; made of operations that `torch.vmap`
                knows (others are done row by row); returns tensors.
            arguments: tensors with a leading axis of length $S$; the function sees one of each.
            chunk: members at a time, which bounds memory; all by default.
        """
        try:
            return torch.vmap(self._under(function), chunk_size=chunk)(self.values, *arguments)
        except RuntimeError as error:
            if not str(error).startswith("vmap:"):
                raise  # not a batch of truth values where one is asked for, as a distribution's checks do
        rows = self.each(function, *arguments)
        return pytree.tree_map(lambda *parts: torch.stack(parts), rows[0], *rows[1:])


def chunk_size(num_rows: int) -> int:
    """Return how many members to take at a time, where each looks at so many rows."""
    return max(1, ROWS // max(1, num_rows))


def twin(model: Module) -> Module:
    """Return a copy of a model that shares its tensors: other tensors may be put in their place."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


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
