"""What several threads do at once to one object, or to what a process has one of, and rounding of a caller."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyro
import torch

from ebmeta.foundation.kinds import found
from ebmeta.foundation.lazy import lazy

__all__ = ["Guarded", "guarded", "once", "undisturbed", "unvalidated"]

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound="Guarded")

_LOCK = threading.Lock()
_inside: list[Any] = []  # contexts of the threads that are inside: what the first one found is restored by the last


@contextmanager
def unvalidated() -> Iterator[None]:
    """Let distributions check nothing; when the last thread has left, they check what they did before.

    `pyro.validation_enabled` alone leaves them unchecked for good where two threads leave in the order that they came.

    Examples:
        >>> with unvalidated(), unvalidated():
        ...     pyro.distributions.Distribution is not None
        True
    """
    with _LOCK:
        if not _inside:
            first = pyro.validation_enabled(False)
            first.__enter__()
            _inside.append(first)
        _inside.append(None)
    try:
        yield
    finally:
        with _LOCK:
            _inside.pop()
            if len(_inside) == 1:
                _inside.pop().__exit__(None, None, None)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave any block of `torch.autocast` that a caller is in, and torch's default device, where it is none of the CPU.

    The first rounds products of matrices to 8 or 11 bits. With the second, new tensors would be apart from those of
    arrays; models and batches say where theirs are.

    Examples:
        >>> one = torch.full((1, 1), 1.001)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16), undisturbed():
        ...     (one @ one).dtype
        torch.float32
    """
    with ExitStack() as left:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                left.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            left.enter_context(torch.device("cpu"))
        yield


class Guarded:
    """The abstract object that answers one question at a time, whichever thread asks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.RLock()}


def guarded(method: Callable[Concatenate[G, P], T]) -> Callable[Concatenate[G, P], T]:
    """Let a method of a `Guarded` object answer one thread at a time."""

    @functools.wraps(method)
    def call(self: G, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock, undisturbed():
            return method(self, *args, **kwargs)

    return cast(Callable[Concatenate[G, P], T], call)


class once(lazy[T]):  # noqa: N801 (as the one of functools)
    """A property of a `Guarded` object that is worked out once, by one thread, and is there to be read."""

    def kept(self, instance: Any) -> T:
        """Return the value of an object, for which other threads wait."""
        with instance._lock, undisturbed():
            return super().kept(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"{self.func.__name__}: expected to be read, got {found(value)}")
