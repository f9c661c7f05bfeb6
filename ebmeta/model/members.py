r"""Many values of a model's parameters at once, along a batched axis instead of copies of the model.

A function of the model is evaluated under $\psi_1, \dots, \psi_S$ by one pass of `torch.vmap`, in which every
parameter that differs has a leading axis of length $S$. The model itself is never written to, so any number of threads
may look at its members at the same time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import Likelihood
from ebmeta.model.posterior import Drawn, Inference, Mixture, choose

__all__ = ["EnsembleInference", "Members", "chunk_size", "pack", "twin", "unpack"]

Module = TypeVar("Module", bound=nn.Module)

ROWS = 100_000  # rows of all members at a time: a few dozen megabytes for each value of a quadrature

#: How errors of `torch.vmap` begin that say that it does not know an operation, such as a gradient that is written out.
UNKNOWN = ("vmap:", "In order to use an autograd.Function with functorch")


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
        """Return a function of one row of values and of tensors, which evaluates `function` under that row."""
        own = twin(self.model)  # values are put into it, and other threads may use the model
        caller = _Call(own)

        def under(flat: Tensor, *each: Tensor) -> Any:
            given = {f"model.{name}": value for name, value in self.split(flat).items()}
            return torch.func.functional_call(caller, given, (function, own, *each))

        return under

    def each(self, function: Callable[..., Any], *arguments: Tensor) -> list[Any]:
        """Return the values of a function of the model and tensors under every row, one after the other; see `map`."""
        under = self._under(function)
        return [under(*row) for row in zip(self.values, *arguments, strict=True)]

    def map(self, function: Callable[..., Any], *arguments: Tensor, chunk: int | None = None) -> Any:
        """Return the values of a function under every row, stacked.

        Args:
            function: of a model, which has the values of a row, and of tensors; made of operations that `torch.vmap`
                knows (others are done row by row); returns tensors.
            arguments: tensors with a leading axis of length $S$; the function sees one of each.
            chunk: members at a time, which bounds memory; all by default.
        """
        try:
            return torch.vmap(self._under(function), chunk_size=chunk)(self.values, *arguments)
        except RuntimeError as error:
            if not str(error).startswith(UNKNOWN):
                raise  # a batch of truth values where one is needed, as in a distribution's checks, is handled
        return stack(self.each(function, *arguments))


@dataclass(frozen=True, eq=False)
class EnsembleInference(Mixture):
    r"""Inference under several values of the prior's parameters, weighted for each task.

    Args:
        log_weight: log weight of each value in each task, shape `(T, S)`.
        log_prior: the same: `kl` is then the mean of the members' divergences, an upper bound of the mixture's.
        members: the values, $S$ of them.
        first: inference under the first value.
        packed: the tensors of inference under every value (`pack`), each with a leading axis of length $S$.
    """

    members: Members
    first: Inference
    packed: list[Tensor]

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood, whose own parameters are not used."""
        return self.first.likelihood

    @property
    def x(self) -> Tensor:
        return self.first.x

    @property
    def query_mask(self) -> Tensor:
        return self.first.query_mask

    @property
    def num_steps(self) -> int:
        return self.first.num_steps

    def _under(self, function: Callable[[Inference], Any]) -> Callable[..., Any]:
        first = replace(self.first, inner=True)
        return lambda model, *tensors: function(unpack(first, tensors).with_likelihood(model.likelihood))

    def each(self, function: Callable[[Any], Any], *, together: bool = True) -> Any:
        if not together:
            return stack(self.members.each(self._under(function), *self.packed))
        rows = self.first.setting.x.shape[:2].numel()
        return self.members.map(self._under(function), *self.packed, chunk=chunk_size(rows))

    def draw(self, k: int, num_draws: int, y: Tensor | None = None, generator: torch.Generator | None = None) -> Drawn:
        source = generator or stream(0)
        chosen = choose(self.log_weight, num_draws, source)
        numbers = iter(range(len(self.members.values)))
        out: list[Tensor] = []

        def fill(inferred: Inference) -> None:
            own = chosen == next(numbers)
            most = int(own.sum(0).max())
            drawn = [v for v in inferred.draw(k, max(most, 1), y, source) if v is not None]
            if not out:
                out.extend(v.new_zeros(num_draws, *v.shape[1:]) for v in drawn)
            draw, task = own.nonzero(as_tuple=True)
            rank = (own.cumsum(0) - 1)[draw, task]
            for whole, some in zip(out, drawn, strict=True):
                whole[draw, task] = some[rank, task]

        self.members.each(self._under(fill), *self.packed)
        w, labels, *scores = out
        self._known("draws", labels.movedim(0, -1))
        return w, labels, scores[0] if scores else None


def stack(rows: list[Any]) -> Any:
    """Return tensors, or structures of them, with an axis of members in front.

    Examples:
        >>> stack([{"mean": torch.zeros(2)}, {"mean": torch.ones(2)}])
        {'mean': tensor([[0., 0.],
                [1., 1.]])}
    """
    return pytree.tree_map(lambda *parts: torch.stack(parts), rows[0], *rows[1:])


def chunk_size(num_rows: int) -> int:
    """Return how many members to take at a time for a number of rows of each."""
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
    """Return all tensors within lists and dataclasses, in order, each once.

    Examples:
        >>> one, two = torch.tensor(1), torch.tensor(2)
        >>> [t.item() for t in pack([one, [None, two, one]])]
        [1, 2]
    """
    found: dict[int, Tensor] = {}
    _visit(value, lambda tensor: found.setdefault(id(tensor), tensor))
    return list(found.values())


def unpack(like: Any, tensors: Iterable[Tensor]) -> Any:
    """Return the same structure with other tensors, in the order of `pack`.

    Examples:
        >>> one = torch.tensor(1)
        >>> unpack([one, None, one], [torch.tensor(5)])
        [tensor(5), None, tensor(5)]
    """
    new = dict(zip(map(id, pack(like)), tensors, strict=True))
    return _visit(like, lambda tensor: new[id(tensor)])


def _visit(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list):
        return [_visit(v, change) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _visit(getattr(value, f.name), change) for f in fields(value)})
    return value
