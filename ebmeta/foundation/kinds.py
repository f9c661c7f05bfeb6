"""Kinds of arguments, each with its description, its test and its conversion."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

__all__ = [
    "MOST_COUNT",
    "SEED",
    "WHOLE",
    "Kind",
    "Range",
    "above",
    "array",
    "at_least",
    "between",
    "dataset",
    "found",
    "is_tracing",
    "kind_of",
    "one_of",
    "real_array",
    "some",
    "within",
]

MOST = 2**63  # numbers from here on leave 64 bits
FAR = 1e150  # squares of numbers from here on are infinite
MOST_COUNT = 2**31  # nothing has as many tasks, rows or steps
#: For what users know by other names.
WORDS = {
    "TaskSampler": "a source such as EpisodeSampler(X, y) or FixedTasks(batch)",
    "PredictiveModel": "an EmpiricalBayes",
    "Simulated": "a SimulationCalibration",
}


@dataclass(frozen=True)
class Range:
    """The numbers that an argument takes, in words (for whole numbers and for all) and as a test, which NaN fails.

    Those of a size from `below` on are too large for it.
    """

    whole: str
    real: str
    holds: Callable[[Any], bool]

    def of(self, annotation: Any) -> Kind | None:
        """Return what an annotation says that an argument may be, in this range; None where it says nothing."""
        return kind_of(annotation, self)

    below: float = math.inf


def at_least(least: float, *, finite: bool = True) -> Range:
    """Numbers from `least` on; infinity only where `finite` is False."""
    real = f"a {'finite ' * finite}number of at least {least}"
    return Range(f"at least {least}", real, lambda v: least <= v, FAR if finite else math.inf)


def within(low: float, high: float) -> Range:
    """Numbers from one to another."""
    words = f"a number from {low:g} to {high:g}"
    return Range(words, words, lambda v: low <= v <= high)


def above(least: float, *, finite: bool = True) -> Range:
    """Numbers above `least`; infinity only where `finite` is False."""
    real = f"a {'finite ' * finite}number above {least}"
    return Range(f"more than {least}", real, lambda v: least < v, FAR if finite else math.inf)


def between(low: float, high: float) -> Range:
    """Numbers between two others, which are left out."""
    words = f"a number between {low} and {high}"
    return Range(words, words, lambda v: low < v < high)


FINITE = Range("a finite number", "a finite number", lambda v: abs(v) < math.inf, FAR)
SEED = Range("a non-negative integer of at most 63 bits", "", lambda v: 0 <= v < MOST)
COUNT = Range("a whole number", "", lambda v: True, MOST_COUNT)


@dataclass(frozen=True)
class Kind:
    """What an argument may be, in words, as a test and as a conversion (given the name, which errors need)."""

    words: str
    fits: Callable[[Any], bool]
    take: Callable[[str, Any], Any] = lambda name, value: value

    def of(self, annotation: Any) -> Kind:
        """Return this kind, which takes the place of what an annotation says."""
        return self


def found(value: object) -> str:
    """Describe briefly a value that was not expected.

    Examples:
        >>> found("auto"), found([1, 2]), found(np.zeros(3))
        ("'auto'", 'list', 'array of shape (3,)')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, bool | np.bool_ | str | bytes | numbers.Number):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, np.ndarray | Tensor):
        return f"{'array' if isinstance(value, np.ndarray) else 'tensor'} of shape {tuple(value.shape)}"
    return type(value).__name__


def _number(base: Kind, convert: Callable[[Any], Any], inside: Range, words: str) -> Kind:
    def take(name: str, value: Any) -> Any:
        try:
            number = convert(value)
        except OverflowError:  # a whole number that no float holds
            raise ValueError(f"{name}: expected {words} that 64 bits hold, got {found(value)}") from None
        size = abs(number)
        if not inside.holds(number) or size == math.inf > inside.below:
            raise ValueError(f"{name}: expected {words}, got {found(value)}")
        if size >= inside.below and size < math.inf:
            most = f"{inside.below:.10g}"
            raise ValueError(
                f"{name}: expected a number {f'below {most}' if number > 0 else f'above -{most}'}, got {found(value)}"
            )
        return number

    return replace(base, take=take)


def is_tracing() -> bool:
    """Whether `torch.jit` traces what is done."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _whole(value: Any) -> bool:
    if isinstance(value, Tensor) and is_tracing():  # where shapes are tensors
        return not value.dim() and not value.is_floating_point() and value.dtype != torch.bool
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real)


def _counting(inside: Range) -> Range:
    """Leave out what is too large to count."""
    return inside if inside is SEED else replace(inside, below=MOST_COUNT)


NONE = Kind("None", lambda v: v is None)
BOOL = Kind("True or False", lambda v: isinstance(v, bool | np.bool_), lambda name, v: bool(v))
WHOLE, REAL = Kind("a whole number", _whole), Kind("a number", _real)


def one_of(options: Sequence[str]) -> Kind:
    """One of several texts."""
    *most, last = map(repr, options)
    return Kind(f"{', '.join(most)} or {last}", lambda v: isinstance(v, str) and v in options)


def _path(name: str, value: str | os.PathLike[str]) -> Path:
    text = os.fspath(value)
    if not text or "\0" in text:
        raise ValueError(f"{name}: expected a path, got {'one with a zero byte' if text else 'an empty text'}")
    return Path(value)


TEXT = Kind("a text", lambda v: isinstance(v, str), lambda name, v: str(v))
PATH = Kind("a path", lambda v: isinstance(v, str | os.PathLike) and isinstance(os.fspath(v), str), _path)
TENSOR = Kind("a dense tensor of real numbers", lambda v: isinstance(v, Tensor) and _plain(v))


def _plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_complex() and not value.is_meta


def _instance(kind: type) -> Kind:
    name = kind.__name__
    words = WORDS.get(name, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")
    if kind.__dict__.get("_is_protocol", False):
        return Kind(words, lambda v: not isinstance(v, type) and _follows(v, kind))
    return Kind(words, lambda v: isinstance(v, kind))


def _follows(value: Any, protocol: type) -> bool:
    """Whether an object has the methods of a protocol, by their names and those of their arguments."""
    for name, wanted in vars(protocol).items():
        if inspect.isfunction(wanted) and not name.startswith("_"):
            method = getattr(value, name, None)
            arguments = list(inspect.signature(wanted).parameters)[1:]
            if not callable(method) or list(inspect.signature(method).parameters)[: len(arguments)] != arguments:
                return False
    return True


def real_array(name: str, value: Any, *, ndim: int | None = None, padded: bool = False) -> np.ndarray:
    """Return numbers as an array of 64-bit floats.

    Args:
        name: how an error calls them.
        value: an array, a tensor or nested lists.
        ndim: number of axes; any by default.
        padded: whether NaN stands for padding.

    Raises:
        ValueError: if they are not real, unmasked and finite, or there are none.

    Examples:
        >>> real_array("x", [1, 2], ndim=1)
        array([1., 2.])
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if np.ma.isMaskedArray(value) and np.ma.getmaskarray(value).any():
        raise ValueError(f"{name}: expected numbers, got a masked array with values missing")
    try:
        out = np.asarray(value)
    except (ValueError, TypeError):
        raise ValueError(f"{name}: expected numbers, got {found(value)} of unequal or unreadable parts") from None
    if out.dtype.kind not in "fiub" or (out.ndim < 1 if ndim is None else out.ndim != ndim) or not out.size:
        axes = "" if ndim is None else f" with {ndim} {'axis' if ndim == 1 else 'axes'}"
        raise ValueError(f"{name}: expected numbers{axes}, got shape {out.shape} of {out.dtype}")
    out = out.astype(np.float64)
    bad = ~(np.abs(out) < FAR)
    if padded:
        bad &= ~np.isnan(out)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        at = str(index[0]) if len(index) == 1 else str(index)
        raise ValueError(f"{name}: expected finite numbers, got {out[index]} at {at}")
    return out


def array(*, ndim: int | None = None, padded: bool = False) -> Kind:
    """Numbers in an array or what can be made one; see `real_array`."""
    return Kind("numbers", lambda v: True, lambda name, v: real_array(name, v, ndim=ndim, padded=padded))


def dataset(what: str, **dims: tuple[str, ...]) -> Kind:
    """A Dataset (`what` says which) with variables of these names, each over these dimensions in any order."""

    def take(name: str, value: xr.Dataset) -> xr.Dataset:
        for variable, wanted in dims.items():
            got = value[variable].dims if variable in value.variables else None
            if got is None or set(got) != set(wanted):
                over = "without" if got is None else f"over {got}"
                raise ValueError(f"{name}: expected {what} with {variable!r} over {wanted}, got one {over}")
        return value

    return Kind(what, lambda v: isinstance(v, xr.Dataset), take)


def _items(item: Kind | None, number: int | None = None) -> Kind:
    """A sequence of items of one kind, of any or a fixed length; a text is no sequence, an array is one of numbers."""
    words = f"a sequence{'' if item is None else f', each {item.words}'}" if number is None else f"{number} values"

    def fits(value: Any) -> bool:
        whole = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return whole or (isinstance(value, np.ndarray) and value.ndim == 1)

    def take(name: str, value: Any) -> Any:
        if number is not None and len(value) != number:
            raise ValueError(f"{name}: expected {number} values, got {len(value)}")
        if item is None:
            return value
        for i, one in enumerate(value):
            if not item.fits(one):
                raise ValueError(f"{name}: expected a sequence, each {item.words}, got {found(one)} at place {i}")
        return tuple(item.take(name, one) for one in value)

    return Kind(words, fits, take)


def some(item: type) -> Kind:
    """A sequence of things of a class, at least one."""
    each = _items(kind_of(item))
    return replace(each, fits=lambda v: each.fits(v) and len(v) > 0, words=f"{each.words}, at least one")


def kind_of(annotation: Any, inside: Range | None = None) -> Kind | None:
    """Return the kind of argument that an annotation states; None where it states none."""
    if annotation is None or annotation is types.NoneType:
        return NONE
    if annotation is bool:
        return BOOL
    if annotation is int:
        within = inside or COUNT
        return _number(WHOLE, int, _counting(within), within.whole)
    if annotation is float:
        within = inside or FINITE
        return _number(REAL, float, within, within.real)
    if annotation in NAMED:
        return NAMED[annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return one_of(parts)
    if origin in (typing.Union, types.UnionType):
        if os.PathLike[str] in parts:
            parts = tuple(part for part in parts if part is not str)
        kinds = [kind_of(part, inside) for part in parts]
        return None if None in kinds else _either([k for k in kinds if k is not None])
    if origin is Callable:
        return Kind("a function", callable)
    if origin is Sequence or (origin is tuple and parts[-1] is Ellipsis):
        return _items(kind_of(parts[0], inside))
    if origin is tuple:
        return _items(kind_of(parts[0], inside), len(parts))
    kind = origin or annotation
    return _instance(kind) if isinstance(kind, type) and kind not in (Any, object, np.ndarray, tuple) else None


def _either(kinds: Sequence[Kind]) -> Kind:
    def take(name: str, value: Any) -> Any:
        return next(k for k in kinds if k.fits(value)).take(name, value)

    return Kind(" or ".join(k.words for k in kinds), lambda v: any(k.fits(v) for k in kinds), take)


#: Kinds of annotations that need more than a test of the class.
NAMED: dict[Any, Kind] = {str: TEXT, Path: PATH, os.PathLike[str]: PATH, Tensor: TENSOR}
