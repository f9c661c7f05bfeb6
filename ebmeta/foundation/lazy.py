"""Properties that are worked out at their first use."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self, TypeVar, overload

__all__ = ["lazy"]

T = TypeVar("T")


class lazy(cached_property[T]):  # noqa: N801 (as the one of functools)
    """A property that is worked out at its first use, and kept.

    `functools.cached_property` has a lock in Python 3.11, one for all objects of a class, which no compiler of torch
    can follow.

    Examples:
        >>> class Square:
        ...     side = 3.0
        ...     @lazy
        ...     def area(self) -> float:
        ...         return self.side**2
        >>> Square().area
        9.0
    """

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        if instance is None:
            return self
        return self.kept(instance)

    def kept(self, instance: Any) -> T:
        """Return the value of an object, which is worked out where it is not known."""
        known, name = instance.__dict__, self.func.__name__
        if name not in known:
            known[name] = self.func(instance)
        value: T = known[name]
        return value
