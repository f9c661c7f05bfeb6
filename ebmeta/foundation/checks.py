"""Checks that the arguments of public entries have the types of their annotations and stated ranges.

    @checked(num_tasks=at_least(1), level=between(0, 1))
    def score(model: EmpiricalBayes, num_tasks: int = 600, level: float = 0.9, seed: int = 0): ...

A whole number is an `int` or NumPy's, never a bool; a number is real and not NaN. What is refused raises `ValueError`
in one line, before any work. Annotations that name no kind (`Any`, `ArrayLike`) are left to the entry itself.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from ebmeta.foundation.kinds import (
    MOST_COUNT,
    SEED,
    WHOLE,
    Kind,
    Range,
    above,
    array,
    at_least,
    between,
    dataset,
    found,
    kind_of,
    one_of,
    real_array,
    some,
    within,
)

__all__ = [
    "MOST_COUNT",
    "WHOLE",
    "Kind",
    "Range",
    "above",
    "array",
    "at_least",
    "between",
    "check",
    "checked",
    "dataset",
    "found",
    "kind_of",
    "one_of",
    "real_array",
    "some",
    "within",
]

T = TypeVar("T")
SEEDS = ("seed", "index")  # halves of the keys of random numbers


def check(name: str, value: Any, annotation: Any, inside: Range | None = None) -> Any:
    """Return a value after the check and conversion of an argument of `checked`.

    Examples:
        >>> import numpy as np
        >>> check("num_steps", np.int64(3), int | None, at_least(0))
        3
    """
    if torch.compiler.is_compiling():
        return value
    kind = kind_of(annotation, inside)
    if kind is None or not kind.fits(value):
        raise ValueError(f"{name}: expected {'something else' if kind is None else kind.words}, got {found(value)}")
    return kind.take(name, value)


class _Names(dict[str, Any]):
    """Names of a module; a name that is imported for the type checker alone is not checked."""

    def __missing__(self, name: str) -> Any:
        return Any


def _kinds(function: Callable[..., Any], given: Mapping[str, Range | Kind | None]) -> dict[str, Kind]:
    function = inspect.unwrap(function)
    names = _Names({**vars(builtins), **typing.cast(Any, function).__globals__})
    # not by `typing.get_type_hints`, which from Python 3.14 on makes a plain dictionary of the names
    hints = inspect.get_annotations(function, locals=names, eval_str=True)
    out: dict[str, Kind] = {}
    for name, hint in hints.items():
        rule = given.get(name, SEED if name in SEEDS else None)
        kind = kind_of(hint) if rule is None else rule.of(hint)
        if kind is not None and name != "return":
            out[name] = kind
    return out


def checked(**given: Range | Kind | None) -> Callable[[T], T]:
    """Check the arguments of a function, or of a class's constructor, before anything is done with them.

    Args:
        **given: for arguments by name, a range inside what the annotation says, or a kind in its place.

    Examples:
        >>> import numpy as np
        >>> @checked(num_tasks=at_least(1))
        ... def score(num_tasks: int = 600, seed: int = 0) -> int:
        ...     return num_tasks
        >>> score(np.int64(3))
        3
        >>> score(True)
        Traceback (most recent call last):
        ValueError: num_tasks: expected a whole number, got True
    """

    def decorate(target: Any) -> Any:
        if isinstance(target, type):
            constructor = typing.cast(Any, target).__init__
            typing.cast(Any, target).__init__ = decorate(constructor)
            return target
        parameters = inspect.signature(target).parameters.values()
        order = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.POSITIONAL_ONLY]
        default = {p.name: p.default for p in parameters}
        kinds = functools.cache(lambda: _kinds(target, given))  # at the first call, when all modules are imported

        def take(name: str, value: Any) -> Any:
            kind = kinds().get(name)
            if kind is None or value is default[name]:
                return value
            if not kind.fits(value):
                raise ValueError(f"{name}: expected {kind.words}, got {found(value)}")
            return kind.take(name, value)

        @functools.wraps(target)
        def call(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():  # a check is no part of a graph
                return target(*args, **kwargs)
            known, rest = args[: len(order)], args[len(order) :]
            ordered = [take(n, v) for n, v in zip(order, known, strict=False)]
            return target(*ordered, *rest, **{n: take(n, v) for n, v in kwargs.items()})

        return call

    return decorate
